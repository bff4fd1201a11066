package store

import (
	"encoding/json"
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/musterhq/muster/fsm/kv"
)

// Metadata is the same table with *metav1.PartialObjectMetadata for objects, for
// who follows all kinds: identity, owners, finalizers and deletion, but no labels,
// annotations and managed fields. Nothing can be written through it.
func (s *Spec) Metadata() *Spec {
	copied := *s
	copied.New = func() Object { return &metav1.PartialObjectMetadata{} }
	copied.NewList = func() runtime.Object { return &metav1.PartialObjectMetadataList{} }
	copied.Codec = metadataOnly{json: s.Codec != nil}
	return &copied
}

type metadataOnly struct{ json bool }

func (metadataOnly) Encode(Object) ([]byte, error) {
	return nil, errors.New("metadata alone is not stored")
}

// Decode skips what is not metadata, which is field 1 of every message.
func (m metadataOnly) Decode(item *kv.Item) (Object, error) {
	obj := &metav1.PartialObjectMetadata{}
	if !m.json {
		if err := obj.Unmarshal(item.Value); err != nil {
			return nil, err
		}
	} else if err := json.Unmarshal(item.Value, obj); err != nil {
		return nil, err
	}
	obj.Labels, obj.Annotations, obj.ManagedFields = nil, nil, nil
	return obj, nil
}

func (metadataOnly) Fields(*kv.Item) fields.Set { return fields.Set{} }
