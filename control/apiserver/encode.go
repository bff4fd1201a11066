package apiserver

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/musterhq/muster/control/apiserver/openapi"
)

// encodeAs renders obj, which must be the caller's own, as what kind says it is.
func encodeAs(obj runtime.Object, kind schema.GroupVersionKind, out output) ([]byte, error) {
	if out.media == mediaProtobuf {
		message, ok := obj.(interface{ Marshal() ([]byte, error) })
		if !ok {
			return nil, statusError(http.StatusNotAcceptable, "NotAcceptable", fmt.Sprintf("%s has no protobuf form", kind.Kind))
		}
		raw, err := message.Marshal()
		if err != nil {
			return nil, err
		}
		return protobufEnvelope(kind, raw), nil
	}
	obj.GetObjectKind().SetGroupVersionKind(kind)
	if out.media == mediaYAML {
		b, err := json.Marshal(obj)
		if err != nil {
			return nil, err
		}
		return yaml.JSONToYAML(b)
	}
	if out.indent {
		b, err := json.MarshalIndent(obj, "", "  ")
		return append(b, '\n'), err
	}
	b, err := json.Marshal(obj)
	return append(b, '\n'), err
}

// protobufMagic begins every object in protobuf; a runtime.Unknown follows.
const protobufMagic = "k8s\x00"

// Fields of runtime.Unknown and runtime.TypeMeta (apimachinery's generated.proto).
const (
	unknownTypeMeta        = 1
	unknownRaw             = 2
	unknownContentEncoding = 3
	unknownContentType     = 4
	typeMetaAPIVersion     = 1
	typeMetaKind           = 2
)

func protobufEnvelope(kind schema.GroupVersionKind, raw []byte) []byte {
	b := appendEnvelopeHead(make([]byte, 0, len(raw)+64), kind, len(raw))
	return appendEnvelopeTail(append(b, raw...))
}

// appendEnvelopeHead appends what comes before the object's own bytes, so that
// those can be spliced in from where they are stored.
func appendEnvelopeHead(b []byte, kind schema.GroupVersionKind, size int) []byte {
	apiVersion, name := kind.ToAPIVersionAndKind()
	b = append(b, protobufMagic...)
	b = protowire.AppendTag(b, unknownTypeMeta, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(protowire.SizeTag(typeMetaAPIVersion)+protowire.SizeBytes(len(apiVersion))+
		protowire.SizeTag(typeMetaKind)+protowire.SizeBytes(len(name))))
	b = protowire.AppendTag(b, typeMetaAPIVersion, protowire.BytesType)
	b = protowire.AppendString(b, apiVersion)
	b = protowire.AppendTag(b, typeMetaKind, protowire.BytesType)
	b = protowire.AppendString(b, name)
	b = protowire.AppendTag(b, unknownRaw, protowire.BytesType)
	return protowire.AppendVarint(b, uint64(size))
}

// envelopeSize is that of an object of so many bytes in its envelope.
func envelopeSize(kind schema.GroupVersionKind, size int) int {
	apiVersion, name := kind.ToAPIVersionAndKind()
	typeMeta := protowire.SizeTag(typeMetaAPIVersion) + protowire.SizeBytes(len(apiVersion)) + protowire.SizeTag(typeMetaKind) + protowire.SizeBytes(len(name))
	return len(protobufMagic) + protowire.SizeTag(unknownTypeMeta) + protowire.SizeBytes(typeMeta) + protowire.SizeTag(unknownRaw) + protowire.SizeBytes(size) +
		protowire.SizeTag(unknownContentEncoding) + protowire.SizeBytes(0) + protowire.SizeTag(unknownContentType) + protowire.SizeBytes(0)
}

// appendEnvelopeTail appends the empty strings that upstream's encoder writes.
func appendEnvelopeTail(b []byte) []byte {
	b = protowire.AppendTag(b, unknownContentEncoding, protowire.BytesType)
	b = protowire.AppendString(b, "")
	b = protowire.AppendTag(b, unknownContentType, protowire.BytesType)
	return protowire.AppendString(b, "")
}

// gzipMin is upstream's: below it, compressing costs more than it saves.
const gzipMin = 128 << 10

// compressors are costly to make and are used for the answers that are largest.
var compressors = sync.Pool{New: func() any {
	w, err := gzip.NewWriterLevel(nil, 1)
	if err != nil {
		panic(err) // the level is valid
	}
	return w
}}

// write sends a whole body.
func (s *Server) write(w http.ResponseWriter, r *http.Request, code int, contentType string, body []byte) {
	header := w.Header()
	header.Set("Content-Type", contentType)
	if len(body) > gzipMin && openapi.AcceptsGzip(r) {
		body = compressed(body)
		header.Set("Content-Encoding", "gzip")
		header.Add("Vary", "Accept-Encoding")
	}
	header.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(code)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // an error means that the client went away
	}
}

func compressed(body []byte) []byte {
	var buffer bytes.Buffer
	compressor := compressors.Get().(*gzip.Writer)
	defer compressors.Put(compressor)
	compressor.Reset(&buffer)
	_, _ = compressor.Write(body) // a bytes.Buffer takes all
	_ = compressor.Close()
	return buffer.Bytes()
}
