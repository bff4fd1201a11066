// Package kv is the state machine's index: a map from keys to values in key
// order, one revision at a time, with views that stay as they were while the
// map goes on. Which changes are made, and which revision they take, is the
// business of package fsm; what keys and values mean is nobody's here.
package kv

import "strings"

// Item is one key at one revision. An item that is in a Map or a View is never
// changed: a new state of the key is a new Item.
type Item struct {
	Key   string
	Value []byte
	// Labels and Fields are what readers may select by without reading Value.
	Labels, Fields Attrs
	// CreateRevision is the revision that made the key exist, Revision the one
	// that last changed it.
	CreateRevision, Revision uint64
}

// Size is about how many bytes of memory the item holds. Names and values of
// attributes are shared between items, so only their headers count.
func (i *Item) Size() int64 {
	if i == nil {
		return 0
	}
	const header, attr = 112, 32
	return int64(header + len(i.Key) + len(i.Value) + attr*(len(i.Labels)+len(i.Fields)))
}

// Attr is a name with a value.
type Attr struct{ Name, Value string }

// Attrs are attributes sorted by name, each name once. They are what label and
// field selectors of Kubernetes ask (labels.Labels, fields.Fields).
type Attrs []Attr

// Lookup returns the value of an attribute and whether there is one.
func (a Attrs) Lookup(name string) (string, bool) {
	lo, hi := 0, len(a)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch c := strings.Compare(a[mid].Name, name); {
		case c == 0:
			return a[mid].Value, true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return "", false
}

// Get returns the value of an attribute, "" when there is none.
func (a Attrs) Get(name string) string {
	value, _ := a.Lookup(name)
	return value
}

// Has reports whether there is such an attribute.
func (a Attrs) Has(name string) bool {
	_, ok := a.Lookup(name)
	return ok
}
