package kv

import (
	"iter"
	"strings"
	"unsafe"

	"k8s.io/utils/third_party/forked/golang/btree"
)

// degree is that of the measured choice: 13 bytes of index per item, and a
// path copied in about 15 µs after a view of a million items was taken.
const degree = 32

// entry carries the key beside the item, so that a search neither allocates a
// pivot nor follows a pointer per comparison.
type entry struct {
	key  string
	item *Item
}

func less(a, b entry) bool { return a.key < b.key }

// Map holds the items of the newest revision. One goroutine at a time may
// write or clone it; reads beside a write need a lock of the owner's.
type Map struct{ tree *btree.BTree[entry] }

// NewMap returns an empty map.
func NewMap() *Map { return &Map{tree: btree.New(degree, less)} }

// Get returns the item of a key, or nil.
func (m *Map) Get(key string) *Item { return get(m.tree, key) }

// Find is Get of a key that is not a string, which it does not keep.
func (m *Map) Find(key []byte) *Item {
	// A search only compares; a string of its own would be an allocation for each.
	return get(m.tree, unsafe.String(unsafe.SliceData(key), len(key)))
}

// Put sets the item of its key and returns the one that was there, or nil.
func (m *Map) Put(item *Item) (prev *Item) {
	old, _ := m.tree.ReplaceOrInsert(entry{key: item.Key, item: item})
	return old.item
}

// Delete removes a key and returns the item that was there, or nil.
func (m *Map) Delete(key string) (prev *Item) {
	old, _ := m.tree.Delete(entry{key: key})
	return old.item
}

// Len is how many keys there are.
func (m *Map) Len() int { return m.tree.Len() }

// Clone returns a view of the map as it is, in constant time; the map pays for
// it by copying each node that it changes afterwards once. revision is the one
// that the map is at, which the view only carries.
func (m *Map) Clone(revision uint64) *View {
	return &View{tree: m.tree.Clone(), revision: revision}
}

// View is a map at one revision, for good. Any number of goroutines may read
// it. It keeps alive what it shows, also what has been overwritten since.
type View struct {
	tree     *btree.BTree[entry]
	revision uint64
}

// Revision is the one that the view shows.
func (v *View) Revision() uint64 { return v.revision }

// Map returns a map that begins as the view and goes its own way. One goroutine
// at a time may call it on the same view; others may read the view meanwhile.
func (v *View) Map() *Map { return &Map{tree: v.tree.Clone()} }

// Get returns the item of a key, or nil.
func (v *View) Get(key string) *Item { return get(v.tree, key) }

// Len is how many keys there are.
func (v *View) Len() int { return v.tree.Len() }

// Count is how many keys have a prefix. It walks them: about 0.1 µs each.
func (v *View) Count(prefix string) int {
	n := 0
	for range v.Range(prefix, "") {
		n++
	}
	return n
}

// Range walks the items whose keys have a prefix and are not below start, in
// ascending order of keys.
func (v *View) Range(prefix, start string) iter.Seq[*Item] {
	return func(yield func(*Item) bool) {
		v.tree.AscendGreaterOrEqual(entry{key: max(prefix, start)}, func(e entry) bool {
			return strings.HasPrefix(e.key, prefix) && yield(e.item)
		})
	}
}

func get(tree *btree.BTree[entry], key string) *Item {
	found, _ := tree.Get(entry{key: key})
	return found.item
}
