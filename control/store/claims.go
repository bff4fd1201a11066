package store

import (
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// claimsPrefix is where claims are kept: not among Muster's own keys, because
// they belong to the objects that hold them and are restored with them.
const claimsPrefix = "claims/"

// Claims are names that one object at a time may hold, such as the ports that
// services take on every node. A claim is a key of its own, "claims/<set>/<name>",
// whose value says who holds it: the log refuses a second holder in the
// transaction that would store him, whichever nodes the two came through.
type Claims struct {
	store *Store
	set   string
}

// Claims gives access to one set of them.
func (s *Store) Claims(set string) Claims { return Claims{store: s, set: set} }

func (c Claims) key(name string) string { return claimsPrefix + c.set + "/" + name }

// Holder is who holds a name on this replica, or "".
func (c Claims) Holder(name string) string {
	item, _ := c.store.machine.Get(c.key(name))
	if item == nil {
		return ""
	}
	return string(item.Value)
}

// Take is the write that gives a name to holder (ErrExists).
func (c Claims) Take(name, holder string) Write {
	return Write{Verb: Create, claim: &claim{key: c.key(name), holder: holder}}
}

// Release is the write that frees a name, if this replica shows that holder has
// it (ErrConflict). A name that is somebody else's stays so.
func (c Claims) Release(name, holder string) (Write, bool) {
	item, _ := c.store.machine.Get(c.key(name))
	if item == nil || string(item.Value) != holder {
		return Write{}, false
	}
	return Write{Verb: Delete, Guard: item.Revision, claim: &claim{key: item.Key}}, true
}

// claim is what a Write does to a claim instead of an object.
type claim struct{ key, holder string }

func (c *claim) plan(w Write) (*storagev1.Guard, *storagev1.Op) {
	key := []byte(c.key)
	if w.Verb == Create {
		return &storagev1.Guard{Key: key}, &storagev1.Op{Op: &storagev1.Op_Put{
			Put: &storagev1.Put{Key: key, Value: []byte(c.holder)},
		}}
	}
	return &storagev1.Guard{Key: key, Revision: w.Guard}, &storagev1.Op{Op: &storagev1.Op_Delete{Delete: &storagev1.Delete{Key: key}}}
}

// Claim is one name of a set and who holds it.
type Claim struct {
	Name, Holder string

	key      string
	revision uint64
}

// All are the claims of the set at one moment.
func (c Claims) All() []Claim {
	var all []Claim
	prefix := c.key("")
	for item := range c.store.View().Range(prefix, "") {
		all = append(all, Claim{Name: item.Key[len(prefix):], Holder: string(item.Value), key: item.Key, revision: item.Revision})
	}
	return all
}

// Release is the write that frees the name, if it was not freed or taken anew
// since (ErrConflict).
func (c Claim) Release() Write {
	return Write{Verb: Delete, Guard: c.revision, claim: &claim{key: c.key}}
}
