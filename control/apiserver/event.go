package apiserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// eventEncoder renders the events of one watch in the form that its client asked
// for: lines of JSON, or frames of protobuf with their length before them.
type eventEncoder struct {
	ctx     context.Context
	kind    *resource.Kind
	out     output
	include metav1.IncludeObjectPolicy
	cache   *eventCache
	// columns says that a table's columns were told; they come with the first
	// row only.
	columns bool
}

func (s *Server) newEventEncoder(r *http.Request, kind *resource.Kind, out output) (*eventEncoder, error) {
	e := &eventEncoder{ctx: context.WithoutCancel(r.Context()), kind: kind, out: out, cache: s.encoded}
	if out.as == asPartialList {
		e.out.as = asPartial // controller-runtime asks for the list's form
	}
	var err error
	if out.as == asTable {
		e.include, err = includeObject(r)
	}
	return e, err
}

func (e *eventEncoder) contentType() string {
	if e.out.media == mediaProtobuf {
		return mediaProtobuf + ";stream=watch"
	}
	return e.out.media
}

// event renders one change. The result may be shared with other watches. Not
// for what is spliced.
func (e *eventEncoder) event(event store.Event) ([]byte, error) {
	form := eventForm{kind: e.kind, out: e.out, include: e.include, columns: e.out.as == asTable && !e.columns}
	form.out.indent = false
	if e.out.as == asTable {
		form.second = time.Now().Unix()
	}
	b, err := e.cache.render(event, form, func() ([]byte, error) { return e.render(event, form.columns) })
	e.columns = e.columns || form.columns
	return b, err
}

// splices says that events are made of the bytes that are stored, which costs less
// than looking up what was rendered for others.
func (e *eventEncoder) splices() bool {
	return e.out.media == mediaProtobuf && e.out.as == "" && e.kind.Spec.Codec == nil
}

// appendSpliced appends an event whose object is spliced.
func (e *eventEncoder) appendSpliced(b []byte, event store.Event) []byte {
	size := store.RawSize(event.Item)
	b = appendEventHead(b, string(event.Type), envelopeSize(e.kind.Spec.Kind, size))
	b = appendEnvelopeHead(b, e.kind.Spec.Kind, size)
	return appendEnvelopeTail(store.AppendRaw(b, event.Item))
}

// splicedSize is how much appendSpliced appends.
func (e *eventEncoder) splicedSize(event store.Event) int {
	return eventSize(string(event.Type), envelopeSize(e.kind.Spec.Kind, store.RawSize(event.Item)))
}

func (e *eventEncoder) render(event store.Event, columns bool) ([]byte, error) {
	if e.out.as == asPartial {
		partial, err := partialOf(e.kind, event, e.out.meta)
		if err != nil {
			return nil, err
		}
		return e.frame(event.Type, partial, columns)
	}
	if e.out.as == "" && e.out.media == mediaJSON {
		b := make([]byte, 0, jsonTimes*len(event.Item.Value)+64)
		b = append(b, `{"type":"`...)
		b = append(b, event.Type...) // one of upstream's words
		b = append(b, `","object":`...)
		b, err := appendStoredJSON(b, e.kind.Spec, e.kind.Spec.Kind, event)
		return append(b, "}\n"...), err
	}
	obj, err := store.Decode(e.kind.Spec, event.Item)
	if err != nil {
		return nil, err
	}
	return e.frame(event.Type, obj, columns)
}

// bookmark renders how far the watch has come: an object of the kind with
// nothing but a resourceVersion.
func (e *eventEncoder) bookmark(revision uint64, endOfInitial bool) ([]byte, error) {
	obj := e.kind.Spec.New()
	obj.SetResourceVersion(strconv.FormatUint(revision, 10))
	if endOfInitial {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	columns := e.out.as == asTable && !e.columns
	e.columns = e.columns || columns
	if e.out.as == asPartial {
		partial := meta.AsPartialObjectMetadata(obj)
		return e.frame(watch.Bookmark, partial, false)
	}
	return e.frame(watch.Bookmark, obj, columns)
}

// failed renders the end of the watch.
func (e *eventEncoder) failed(status *metav1.Status) ([]byte, error) {
	b, err := encodeAs(status, statusKind, output{media: e.out.media})
	if err != nil {
		return nil, err
	}
	return e.wrap(watch.Error, b)
}

// frame renders an event of an object, or of its row.
func (e *eventEncoder) frame(kind watch.EventType, obj runtime.Object, columns bool) ([]byte, error) {
	gvk := e.kind.Spec.Kind
	switch e.out.as {
	case asPartial:
		gvk = e.out.meta.WithKind(asPartial)
	case asTable:
		table, err := tableOf(e.ctx, e.kind, obj, e.include, e.out.meta)
		if err != nil {
			return nil, err
		}
		if !columns {
			table.ColumnDefinitions = nil
		}
		if accessor, err := meta.Accessor(obj); err == nil {
			table.ResourceVersion = accessor.GetResourceVersion()
		}
		obj, gvk = table, e.out.meta.WithKind(asTable)
	}
	b, err := encodeAs(obj, gvk, output{media: e.out.media})
	if err != nil {
		return nil, err
	}
	return e.wrap(kind, b)
}

// wrap puts an object that is rendered already into an event.
func (e *eventEncoder) wrap(kind watch.EventType, object []byte) ([]byte, error) {
	if e.out.media == mediaProtobuf {
		return protobufEvent(string(kind), object), nil
	}
	name, err := json.Marshal(string(kind))
	if err != nil {
		return nil, fmt.Errorf("event type: %w", err)
	}
	object = bytes.TrimRight(object, "\n")
	b := make([]byte, 0, len(object)+len(name)+24)
	b = append(b, `{"type":`...)
	b = append(b, name...)
	b = append(b, `,"object":`...)
	b = append(b, object...)
	return append(b, "}\n"...), nil
}

// Fields of metav1.WatchEvent and runtime.RawExtension.
const (
	watchEventType   = 1
	watchEventObject = 2
	rawExtensionRaw  = 1
)

// lengthBytes come before each event, big endian.
const lengthBytes = 4

// protobufEvent is a metav1.WatchEvent behind its length, as apimachinery's length
// delimited framer writes it.
func protobufEvent(kind string, object []byte) []byte {
	return append(appendEventHead(make([]byte, 0, eventSize(kind, len(object))), kind, len(object)), object...)
}

// appendEventHead appends what comes before the object, which is the last of an
// event.
func appendEventHead(b []byte, kind string, object int) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(eventSize(kind, object)-lengthBytes))
	b = protowire.AppendTag(b, watchEventType, protowire.BytesType)
	b = protowire.AppendString(b, kind)
	b = protowire.AppendTag(b, watchEventObject, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(protowire.SizeTag(rawExtensionRaw)+protowire.SizeBytes(object)))
	b = protowire.AppendTag(b, rawExtensionRaw, protowire.BytesType)
	return protowire.AppendVarint(b, uint64(object))
}

// eventSize is that of an event with its length.
func eventSize(kind string, object int) int {
	inner := protowire.SizeTag(rawExtensionRaw) + protowire.SizeBytes(object)
	return lengthBytes + protowire.SizeTag(watchEventType) + protowire.SizeBytes(len(kind)) + protowire.SizeTag(watchEventObject) + protowire.SizeBytes(inner)
}
