package resource

import (
	"context"
	"fmt"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Catalog is the kinds that are served at one moment: those built in, and those
// that users defined, which come and go. Nothing in it may be changed.
type Catalog struct {
	kinds, served []*Kind
	byResource    map[schema.GroupResource]*Kind
	byVersion     map[schema.GroupVersionResource]*Kind
	byKind        map[schema.GroupKind]*Kind
	documents     []Document
	replaced      chan struct{}
}

// Document is OpenAPI of the custom kinds in one group version. It is made when
// it is first read; its hash, which is the same on all control nodes, says whether
// it is another one than a client has.
type Document struct {
	GroupVersion schema.GroupVersion
	Hash         string
	V2, V3       func() ([]byte, error) // JSON
}

// Custom is a kind that users defined. Each of its versions is a Kind with rules
// of its own; all show the same stored objects.
type Custom struct {
	// Stored is the kind in the version in which it is stored.
	Stored *Kind
	// Served are its versions that requests may name. Stored need not be among them.
	Served []*Kind
}

// Kinds are all stored kinds, each once, in the order of discovery.
func (c *Catalog) Kinds() []*Kind { return c.kinds }

// Served are all kinds as requests name them: one that is served in several
// versions is there several times.
func (c *Catalog) Served() []*Kind { return c.served }

// Documents describe the custom kinds, in order of their group versions.
func (c *Catalog) Documents() []Document { return c.documents }

// Kind finds a stored kind by its resource, or nil.
func (c *Catalog) Kind(resource schema.GroupResource) *Kind { return c.byResource[resource] }

// GroupKind finds a stored kind by its name, as owner references do, or nil.
func (c *Catalog) GroupKind(kind schema.GroupKind) *Kind { return c.byKind[kind] }

// Replaced is closed when the registry has another catalog.
func (c *Catalog) Replaced() <-chan struct{} { return c.replaced }

// Version finds what a request names, or nil.
func (c *Catalog) Version(resource schema.GroupVersionResource) *Kind { return c.byVersion[resource] }

// served swaps catalogs. Readers of one never wait for a writer.
type served struct {
	builtin *Catalog
	now     atomic.Pointer[Catalog]
	// current is set once, before use; nil: nobody defines kinds.
	current func(context.Context) error
}

// newBuiltin makes a catalog of stored kinds, and of further versions of them.
func newBuiltin(stored, versions []*Kind) *Catalog {
	c := newCatalog()
	for _, k := range stored {
		if c.byResource[k.Spec.Resource] != nil {
			panic(fmt.Sprintf("resource: %s is registered twice", k.Spec.Resource))
		}
		c.add(k, k)
	}
	for _, k := range versions {
		if c.byVersion[k.GroupVersionResource()] != nil {
			panic(fmt.Sprintf("resource: %s is registered twice", k.GroupVersionResource()))
		}
		c.serve(k)
	}
	return c
}

// newServed begins with what every cluster has. Each registry has a catalog of its
// own: being replaced is told once.
func newServed() *served {
	s := &served{builtin: newBuiltin(kinds, versions)}
	s.now.Store(s.builtin)
	return s
}

func newCatalog() *Catalog {
	return &Catalog{
		byResource: map[schema.GroupResource]*Kind{}, byVersion: map[schema.GroupVersionResource]*Kind{}, byKind: map[schema.GroupKind]*Kind{},
		replaced: make(chan struct{}),
	}
}

func (c *Catalog) add(stored *Kind, served ...*Kind) {
	c.byResource[stored.Spec.Resource] = stored
	c.byKind[stored.Spec.Kind.GroupKind()] = stored
	c.kinds = append(c.kinds, stored)
	c.serve(served...)
}

func (c *Catalog) serve(served ...*Kind) {
	for _, k := range served {
		c.byVersion[k.GroupVersionResource()] = k
		c.served = append(c.served, k)
	}
}

// setCustom makes a new catalog. What is built in wins: a custom kind of the same
// resource would have its objects under the same keys.
func (s *served) setCustom(custom []Custom, documents []Document) {
	next := newCatalog()
	next.documents = documents
	for _, k := range s.builtin.kinds {
		next.add(k)
	}
	next.serve(s.builtin.served...)
	for _, c := range custom {
		if next.byResource[c.Stored.Spec.Resource] == nil && next.byKind[c.Stored.Spec.Kind.GroupKind()] == nil {
			next.add(c.Stored, c.Served...)
		}
	}
	close(s.now.Swap(next).replaced)
}
