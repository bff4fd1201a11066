package apiserver

import (
	"errors"
	"net/http"
	"net/url"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
)

// target is what a path below /api or /apis names, and what the request wants
// of it. It is what authorization and metrics speak about.
type target struct {
	verb        string
	group       string
	version     string
	namespace   string
	resource    string
	name        string
	subresource string
	// rest is what follows a proxy subresource: a path of somebody else's, still
	// escaped, and whatever it is. It begins with a slash unless it is empty.
	rest string
}

var (
	// errNoResource means that a path lies below /api or /apis and names no
	// resource: discovery, or nothing.
	errNoResource = errors.New("the path names no resource")
	// errBadPath means that a path has a part that no object can have as its
	// name. Such parts must not come near keys: "..", or an encoded slash,
	// would name another object.
	errBadPath = errors.New("the path has an invalid segment")
)

// segmentsMax is more than any resource's path has, so that a path of slashes
// costs nothing: what is left has a slash in it and is no name.
const segmentsMax = 12

// parsePath reads
//
//	/api/VERSION/…  /apis/GROUP/VERSION/…
//	…/RESOURCE[/NAME[/SUBRESOURCE]]
//	…/namespaces/NAMESPACE/RESOURCE[/NAME[/SUBRESOURCE]]
//	…/NAME/proxy[/ANYTHING]
//	/api/VERSION/watch/…  /apis/GROUP/VERSION/watch/…
//
// from a path as it was sent, still escaped: a%2Fb is one name with a slash in
// it (and refused), not two. What of it exists is not its business.
func parsePath(method, escaped string) (target, error) {
	var t target
	escaped, t.rest = splitProxied(escaped)
	escaped = strings.TrimSuffix(strings.TrimPrefix(escaped, "/"), "/")
	parts := strings.SplitN(escaped, "/", segmentsMax)
	for i, part := range parts {
		decoded, err := url.PathUnescape(part)
		if err != nil || decoded == "" || len(content.IsPathSegmentName(decoded)) > 0 {
			return t, errBadPath
		}
		parts[i] = decoded
	}
	switch {
	case parts[0] == "api" && len(parts) >= 3:
		t.version, parts = parts[1], parts[2:]
	case parts[0] == "apis" && len(parts) >= 4:
		t.group, t.version, parts = parts[1], parts[2], parts[3:]
	default:
		return t, errNoResource
	}
	// The old way to ask for a watch: /api/v1/watch/…
	old := parts[0] == "watch" && len(parts) > 1
	if old {
		parts = parts[1:]
	}
	// namespaces/NAME and its own subresources are about the namespace itself;
	// anything longer is about what is in it.
	if parts[0] == "namespaces" && len(parts) >= 2 {
		t.namespace = parts[1]
		if len(parts) >= 3 && !namespaceSubresources[parts[2]] {
			parts = parts[2:]
		}
	}
	t.resource = parts[0]
	if len(parts) > 1 {
		t.name = parts[1]
	}
	if len(parts) > 2 {
		t.subresource = strings.Join(parts[2:], "/")
	}
	t.verb = verbOf(method, t.name != "")
	if old {
		t.verb = ""
		if method == http.MethodGet {
			t.verb = "watch"
		}
	}
	return t, nil
}

// splitProxied cuts a path of the core group behind RESOURCE/NAME/proxy.
func splitProxied(escaped string) (path, rest string) {
	parts := strings.SplitN(escaped, "/", segmentsMax)
	for _, at := range []int{5, 7} { // /api/v1/nodes/n1/proxy, /api/v1/namespaces/a/pods/p/proxy
		if len(parts) > at && parts[1] == "api" && parts[at] == "proxy" && (at == 5 || parts[3] == "namespaces") {
			path = strings.Join(parts[:at+1], "/")
			return path, escaped[len(path):]
		}
	}
	return escaped, ""
}

var namespaceSubresources = map[string]bool{"status": true, "finalize": true}

// verbOf is the API's verb for a method. Whether a collection's get is a list
// or a watch depends on the query: see (target).withQuery.
func verbOf(method string, named bool) string {
	switch method {
	case http.MethodGet, http.MethodHead:
		if named {
			return "get"
		}
		return "list"
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		if named {
			return "delete"
		}
		return "deletecollection"
	}
	return ""
}
