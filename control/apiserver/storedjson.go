package apiserver

import (
	"encoding/json"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/apiserver/transcode"
	"github.com/musterhq/muster/control/store"
)

// learned are the kinds whose stored bytes become JSON without being decoded,
// *store.Spec → *transcode.Type; nil where that is not known of a kind.
var learned sync.Map

func learn(spec *store.Spec) *transcode.Type {
	if known, ok := learned.Load(spec); ok {
		return known.(*transcode.Type)
	}
	var known *transcode.Type
	if spec.Codec == nil {
		// What can't be learned is decoded; a test says which kinds that may be.
		known, _ = transcode.Of(spec.New())
	}
	learned.Store(spec, known)
	return known
}

// rawBuffers hold an object's bytes with its revision for as long as it takes to
// write them in JSON.
var rawBuffers = sync.Pool{New: func() any { return new([]byte) }}

// appendStoredJSON appends an event's object in JSON. As is what it says that it
// is; nothing, if it is empty, as in lists.
func appendStoredJSON(b []byte, spec *store.Spec, as schema.GroupVersionKind, event store.Event) ([]byte, error) {
	if known := learn(spec); known != nil {
		apiVersion, kind := as.ToAPIVersionAndKind()
		raw := rawBuffers.Get().(*[]byte)
		defer rawBuffers.Put(raw)
		*raw = store.AppendRaw((*raw)[:0], event.Item)
		if out, err := known.Append(b, apiVersion, kind, *raw); err == nil {
			return out, nil
		}
	}
	obj, err := store.Decode(spec, event.Item)
	if err != nil {
		return b, err
	}
	if !as.Empty() {
		obj.GetObjectKind().SetGroupVersionKind(as)
	}
	text, err := json.Marshal(obj)
	return append(b, text...), err
}
