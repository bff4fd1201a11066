package resource

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Catalog is the kinds that are served at one moment: those built in, and those
// that users defined, which come and go. Nothing in it may be changed.
type Catalog struct {
	kinds, served []*Kind
	byResource    map[schema.GroupResource]*Kind
	byVersion     map[schema.GroupVersionResource]*Kind
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

// Kind finds a stored kind by its resource, or nil.
func (c *Catalog) Kind(resource schema.GroupResource) *Kind { return c.byResource[resource] }

// Version finds what a request names, or nil.
func (c *Catalog) Version(resource schema.GroupVersionResource) *Kind { return c.byVersion[resource] }

// served swaps catalogs. Readers of one never wait for a writer.
type served struct {
	builtin *Catalog
	now     atomic.Pointer[Catalog]
	// current is set once, before use; nil: nobody defines kinds.
	current func(context.Context) error
}

func newServed(builtin []*Kind) *served {
	c := &Catalog{
		kinds: builtin, served: builtin,
		byResource: map[schema.GroupResource]*Kind{}, byVersion: map[schema.GroupVersionResource]*Kind{},
	}
	for _, k := range builtin {
		if c.byResource[k.Spec.Resource] != nil {
			panic(fmt.Sprintf("resource: %s is registered twice", k.Spec.Resource))
		}
		c.byResource[k.Spec.Resource] = k
		c.byVersion[k.GroupVersionResource()] = k
	}
	s := &served{builtin: c}
	s.now.Store(c)
	return s
}

// setCustom makes a new catalog. What is built in wins: a custom kind of the same
// resource would have its objects under the same keys.
func (s *served) setCustom(custom []Custom) {
	next := &Catalog{
		kinds: slices.Clone(s.builtin.kinds), served: slices.Clone(s.builtin.served),
		byResource: map[schema.GroupResource]*Kind{}, byVersion: map[schema.GroupVersionResource]*Kind{},
	}
	for _, k := range s.builtin.kinds {
		next.byResource[k.Spec.Resource] = k
	}
	for _, k := range s.builtin.served {
		next.byVersion[k.GroupVersionResource()] = k
	}
	for _, c := range custom {
		if next.byResource[c.Stored.Spec.Resource] != nil {
			continue
		}
		next.byResource[c.Stored.Spec.Resource] = c.Stored
		next.kinds = append(next.kinds, c.Stored)
		for _, k := range c.Served {
			next.byVersion[k.GroupVersionResource()] = k
			next.served = append(next.served, k)
		}
	}
	s.now.Store(next)
}
