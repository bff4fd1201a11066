package apiserver

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/warning"

	"github.com/musterhq/muster/control/audit"
	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// bodyMax bounds a request's body. JSON and YAML within it are bounded again by
// their decoders: nesting at 10,000 levels, aliases in proportion to the text.
const bodyMax = 3 << 20

func readBody(r *http.Request) ([]byte, error) {
	if r.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, bodyMax+1))
	if err != nil {
		return nil, badRequest(fmt.Errorf("read the request's body: %w", err))
	}
	if len(body) > bodyMax {
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", bodyMax))
	}
	return body, nil
}

// serializer finds what reads the request's Content-Type.
func serializer(r *http.Request) (runtime.SerializerInfo, error) {
	header := r.Header.Get("Content-Type")
	media := mediaJSON
	if header != "" {
		var err error
		if media, _, err = mime.ParseMediaType(header); err != nil {
			return runtime.SerializerInfo{}, unsupportedMedia(mediaJSON, mediaYAML, mediaProtobuf)
		}
	}
	if media == mediaJSON || media == mediaYAML || media == mediaProtobuf {
		if info, ok := runtime.SerializerInfoForMediaType(kube.Codecs.SupportedMediaTypes(), media); ok {
			return info, nil
		}
	}
	return runtime.SerializerInfo{}, unsupportedMedia(mediaJSON, mediaYAML, mediaProtobuf)
}

func unsupportedMedia(accepted ...string) error {
	return statusError(http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType,
		"the body of the request was in an unknown format - accepted media types include: "+strings.Join(accepted, ", "))
}

// decodeBody reads the request's body as kind into an object. directive says
// what becomes of fields that the kind does not have, or that are there twice:
// refused, told in Warning headers, or dropped.
func decodeBody(r *http.Request, kind schema.GroupVersionKind, into runtime.Object, directive string) error {
	info, err := serializer(r)
	if err != nil {
		return err
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	if err := decodeInto(r.Context(), info, body, kind, into, directive); err != nil {
		return err
	}
	audit.From(r.Context()).Sent(into, kind)
	return nil
}

// decodeObject is decodeBody for an object of a kind.
func decodeObject(r *http.Request, kind *resource.Kind, into store.Object, directive string) error {
	if kind.Schema == nil {
		return decodeBody(r, kind.Spec.Kind, into, directive)
	}
	info, err := serializer(r)
	if err != nil {
		return err
	}
	if info.MediaType == mediaProtobuf {
		return unsupportedMedia(mediaJSON, mediaYAML)
	}
	body, err := readBody(r)
	if err != nil {
		return err
	}
	strict, actual, err := decodeCustom(info, body, kind, into, directive)
	switch {
	case err != nil:
		return undecodable(err, kind.Spec.Kind, actual, body)
	case actual.GroupVersion() != kind.Spec.Kind.GroupVersion():
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", actual.GroupVersion(), kind.Spec.Kind.GroupVersion()))
	case len(strict) > 0 && directive == metav1.FieldValidationWarn:
		warnStrict(r.Context(), strict)
	case len(strict) > 0:
		return undecodable(runtime.NewStrictDecodingError(strict), kind.Spec.Kind, actual, body)
	}
	return nil
}

// decodeCustom reads a document of a kind that has a schema, and tells what of it
// strict decoding refuses, unless that is to be ignored.
func decodeCustom(info runtime.SerializerInfo, body []byte, kind *resource.Kind, into store.Object, directive string) (strict []error, actual *schema.GroupVersionKind, err error) {
	decoder := info.Serializer
	if directive != metav1.FieldValidationIgnore && info.StrictSerializer != nil {
		decoder = info.StrictSerializer
	}
	_, actual, err = decoder.Decode(body, &kind.Spec.Kind, into)
	if err != nil {
		found, isStrict := runtime.AsStrictDecodingError(err)
		if !isStrict {
			return nil, actual, err
		}
		strict = found.Errors()
	}
	unknown, err := kind.Schema.Coerce(into, directive != metav1.FieldValidationIgnore)
	if err != nil {
		return nil, actual, err
	}
	for _, path := range unknown {
		strict = append(strict, fmt.Errorf("unknown field %q", path))
	}
	return strict, actual, nil
}

func decodeInto(ctx context.Context, info runtime.SerializerInfo, body []byte, kind schema.GroupVersionKind, into runtime.Object, directive string) error {
	obj, actual, err := decodeAny(ctx, info, body, kind, into, directive)
	if err != nil {
		return err
	}
	if actual.GroupVersion() != kind.GroupVersion() {
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)", actual.GroupVersion(), kind.GroupVersion()))
	}
	if obj != into {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s", actual.Kind, actual.Version, kind.Kind))
	}
	return nil
}

// decodeAny reads a body as what it says that it is, and as kind if it does not
// say. into may be nil; the result is another object where it does not fit.
func decodeAny(ctx context.Context, info runtime.SerializerInfo, body []byte, kind schema.GroupVersionKind, into runtime.Object, directive string) (runtime.Object, *schema.GroupVersionKind, error) {
	decoder := info.Serializer
	if directive != metav1.FieldValidationIgnore && info.StrictSerializer != nil {
		decoder = info.StrictSerializer
	}
	obj, actual, err := decoder.Decode(body, &kind, into)
	if err != nil {
		strict, isStrict := runtime.AsStrictDecodingError(err)
		if !isStrict || obj == nil || directive != metav1.FieldValidationWarn {
			return nil, nil, undecodable(err, kind, actual, body)
		}
		warnStrict(ctx, strict.Errors())
	}
	return obj, actual, nil
}

// undecodable is upstream's wording, which names the field.
func undecodable(err error, kind schema.GroupVersionKind, actual *schema.GroupVersionKind, body []byte) error {
	if actual != nil && actual.Kind != "" {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", actual.Kind, actual.Version, kind.Kind, err))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", kind.Kind, err, summary(body)))
}

// summary is a glimpse of a body, for a message.
func summary(body []byte) string {
	const most = 30
	dots := ""
	if len(body) > most {
		body, dots = body[:most], " ..."
	}
	switch {
	case len(body) == 0:
		return "<empty>"
	case body[0] == '{':
		return string(body) + dots
	}
	return hex.EncodeToString(body) + dots
}

// warnStrict tells each violation in a Warning header. The YAML decoder reports
// several in one error.
func warnStrict(ctx context.Context, errs []error) {
	for _, err := range errs {
		text := err.Error()
		short, ok := strings.CutPrefix(text, "yaml: unmarshal errors:\n")
		if !ok {
			short, ok = strings.CutPrefix(text, "error converting YAML to JSON: yaml: unmarshal errors:\n")
		}
		if !ok {
			warning.AddWarning(ctx, "", text)
			continue
		}
		for line := range strings.SplitSeq(short, "\n") {
			warning.AddWarning(ctx, "", strings.TrimSpace(line))
		}
	}
}

// fieldValidation is the directive that a write names, or upstream's default.
func fieldValidation(named string) string {
	if named == "" {
		return metav1.FieldValidationWarn
	}
	return named
}

// decodeQuery reads a request's options from its query.
func decodeQuery(query url.Values, options runtime.Object) error {
	if err := metainternalversionscheme.ParameterCodec.DecodeParameters(query, metav1.SchemeGroupVersion, options); err != nil {
		return badRequest(err)
	}
	return nil
}
