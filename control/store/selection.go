package store

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/musterhq/muster/fsm/kv"
)

const (
	fieldName      = "metadata.name"
	fieldNamespace = "metadata.namespace"
)

// selection is which of a table's items a list or a watch is about.
type selection struct {
	spec   *Spec
	prefix string
	key    string // when it can be about one object only
	labels labels.Selector
	fields fields.Selector
}

// selects plans a selection. Requirements on metadata.name and
// metadata.namespace become a narrower prefix or a single key, so that
// watching one object does not mean looking at its whole namespace.
func (t *Table) selects(namespace string, byLabels labels.Selector, byFields fields.Selector) (selection, error) {
	s := selection{spec: t.spec, labels: byLabels, fields: byFields}
	if s.labels == nil {
		s.labels = labels.Everything()
	}
	if s.fields == nil {
		s.fields = fields.Everything()
	}
	if strings.Contains(namespace, "/") || namespace != "" && !t.spec.Namespaced {
		return s, fmt.Errorf("%w: %s in the namespace %q", ErrInvalid, t.spec.Resource, namespace)
	}
	if only, ok := s.fields.RequiresExactMatch(fieldNamespace); ok && namespace == "" && t.spec.Namespaced && !strings.Contains(only, "/") {
		namespace = only
	}
	s.prefix = t.spec.Prefix(namespace)
	if name, ok := s.fields.RequiresExactMatch(fieldName); ok {
		// No key: of that name there may be one in each namespace, or none at all.
		if key, err := t.spec.Key(namespace, name); err == nil {
			s.key, s.prefix = key, key
		}
	}
	return s, nil
}

// all says that everything under the prefix is selected.
func (s *selection) all() bool { return s.key == "" && s.labels.Empty() && s.fields.Empty() }

func (s *selection) matches(item *kv.Item) bool {
	if item == nil || s.key != "" && item.Key != s.key {
		return false
	}
	return (s.labels.Empty() || s.labels.Matches(item.Labels)) &&
		(s.fields.Empty() || s.fields.Matches(&itemFields{spec: s.spec, item: item}))
}

// itemFields are an item's fields with those that its key tells.
type itemFields struct {
	spec *Spec
	item *kv.Item
	// decoded are those that had to be read from the object.
	decoded fields.Set
}

func (f *itemFields) Has(field string) bool {
	return field == fieldName || field == fieldNamespace || f.others().Has(field)
}

func (f *itemFields) Get(field string) string {
	switch field {
	case fieldName:
		_, name := f.spec.SplitKey(f.item.Key)
		return name
	case fieldNamespace:
		namespace, _ := f.spec.SplitKey(f.item.Key)
		return namespace
	}
	return f.others().Get(field)
}

func (f *itemFields) others() fields.Fields {
	if f.spec.Codec == nil {
		return f.item.Fields
	}
	if f.decoded == nil {
		f.decoded = f.spec.Codec.Fields(f.item)
	}
	return f.decoded
}
