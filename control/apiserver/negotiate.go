package apiserver

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/munnerz/goautoneg"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Media types that objects are read and written in.
const (
	mediaJSON     = runtime.ContentTypeJSON
	mediaYAML     = runtime.ContentTypeYAML
	mediaProtobuf = runtime.ContentTypeProtobuf
)

// Forms other than the object itself that a client may ask for.
const (
	asTable       = "Table"
	asPartial     = "PartialObjectMetadata"
	asPartialList = "PartialObjectMetadataList"
)

// output is the form of an answer.
type output struct {
	media string
	// as is empty for the object itself.
	as string
	// meta is the version of what as names.
	meta schema.GroupVersion
	// indent is for people who use curl.
	indent bool
}

// plain is the answer when none was agreed on.
var plain = output{media: mediaJSON}

// negotiate finds the first form that the request's Accept header asks for and
// that is there. Offers are asTable and the like.
func negotiate(r *http.Request, offers ...string) (output, error) {
	return negotiateFor(r, func(out output) bool { return out.as == "" || offered(out, offers) })
}

// negotiate is the same for the objects of a kind, which may lack a form in
// protobuf.
func (c *call) negotiate(r *http.Request, offers ...string) (output, error) {
	return negotiateFor(r, func(out output) bool {
		if out.as == "" {
			return c.kind.Schema == nil || out.media != mediaProtobuf || isScale(c)
		}
		return offered(out, offers)
	})
}

// negotiateFor asks there whether a form is.
func negotiateFor(r *http.Request, there func(output) bool) (output, error) {
	indent := wantsIndent(r)
	header := r.Header.Get("Accept")
	if header == "" {
		return output{media: mediaJSON, indent: indent}, nil
	}
	for _, clause := range goautoneg.ParseAccept(header) {
		out := output{indent: indent}
		switch {
		case clause.Type == "*" && clause.SubType == "*", clause.Type == "application" && (clause.SubType == "*" || clause.SubType == "json"):
			out.media = mediaJSON
		case clause.Type == "application" && clause.SubType == "yaml":
			out.media = mediaYAML
		case clause.Type == "application" && clause.SubType == "vnd.kubernetes.protobuf":
			out.media = mediaProtobuf
		default:
			continue
		}
		if stream := clause.Params["stream"]; stream != "" && stream != "watch" {
			continue
		}
		if as := clause.Params["as"]; as != "" {
			out.as = as
			out.meta = schema.GroupVersion{Group: clause.Params["g"], Version: clause.Params["v"]}
		}
		if there(out) {
			return out, nil
		}
	}
	return plain, statusError(http.StatusNotAcceptable, "NotAcceptable",
		"only the following media types are accepted: "+strings.Join([]string{mediaJSON, mediaYAML, mediaProtobuf}, ", "))
}

func offered(out output, offers []string) bool {
	if out.meta.Group != metav1.GroupName || out.meta.Version != "v1" && out.meta.Version != "v1beta1" {
		return false
	}
	if out.as == asTable && out.media == mediaProtobuf {
		return false // Table has no protobuf form
	}
	for _, offer := range offers {
		if out.as == offer {
			return true
		}
	}
	return false
}

// wantsIndent is upstream's rule: the pretty parameter, or else a browser or a
// command line tool.
func wantsIndent(r *http.Request) bool {
	if pretty, ok := queryValue(r.URL, "pretty"); ok {
		return pretty == "" || pretty == "1" || strings.EqualFold(pretty, "true")
	}
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

func queryValue(u *url.URL, name string) (string, bool) {
	if !strings.Contains(u.RawQuery, name) {
		return "", false
	}
	values, ok := u.Query()[name]
	if !ok || len(values) == 0 {
		return "", false
	}
	return values[0], true
}
