// Package custom makes kinds of CustomResourceDefinitions: their schemas become
// rules, defaults, columns and documents, and their objects, which have no Go
// type, become JSON in the store. Every control node follows the definitions in
// its own replica and puts the kinds into its registry; that names are accepted,
// and that a kind is emptied before its definition goes, is the work of a
// controller on the leader.
//
// It is the only importer of apiextensions-apiserver's machinery: schemas,
// pruning, defaulting, CEL, OpenAPI.
package custom

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/conversion"
	"k8s.io/apiserver/pkg/util/webhook"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// Config is what a Follower needs.
type Config struct {
	Store    *store.Store
	Registry *resource.Registry
	// Dial reaches conversion webhooks that are named by a service. Nil: they are
	// looked for by the service's name in DNS.
	Dial   Dial
	Logger *slog.Logger
}

// Follower keeps the registry's custom kinds as this node's replica defines them.
type Follower struct {
	store    *store.Store
	registry *resource.Registry
	convert  *conversion.CRConverterFactory
	log      *slog.Logger
	cache    *store.Cache[*apiextensionsv1.CustomResourceDefinition]
	// definitions that are served, by name. Only the cache's goroutine uses them.
	definitions map[string]*definition
	documents   []resource.Document
}

// NewFollower tells the registry who keeps its custom kinds. There are none
// before Run.
func NewFollower(cfg Config) (*Follower, error) {
	converters, err := conversion.NewCRConverterFactory(webhook.NewDefaultServiceResolver(), caller{cfg.Dial}.wrap)
	if err != nil {
		return nil, fmt.Errorf("prepare for conversion webhooks: %w", err)
	}
	f := &Follower{
		store: cfg.Store, registry: cfg.Registry, convert: converters, log: cfg.Logger,
		cache:       store.NewCache[*apiextensionsv1.CustomResourceDefinition](cfg.Store, store.CustomResourceDefinitions, nil),
		definitions: map[string]*definition{},
	}
	f.cache.OnChange(f.changed)
	f.registry.KeptBy(func(ctx context.Context) error { return f.cache.WaitRevision(ctx, f.store.Revision()) })
	return f, nil
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) error { return f.cache.Run(ctx) }

// Synced is closed once the kinds are served that were defined when Run began.
func (f *Follower) Synced() <-chan struct{} { return f.cache.Synced() }

// changed takes over one definition's new state. Schemas are compiled when
// they are first used, so that a node with hundreds of definitions starts at once.
func (f *Follower) changed(old, now *apiextensionsv1.CustomResourceDefinition) {
	name := ""
	if now != nil {
		name = now.Name
	} else {
		name = old.Name
	}
	before := f.definitions[name]
	switch {
	case now == nil || !established(now):
		if before == nil {
			return
		}
		delete(f.definitions, name)
	case before != nil && before.shows(now):
		return
	default:
		next, err := newDefinition(now, f.convert)
		if err != nil {
			// Validation lets none of these pass. What was served goes on.
			f.log.Error("custom resource definition cannot be served", "name", name, "error", err)
			return
		}
		f.definitions[name] = next
	}
	var definitions []*definition
	var custom []resource.Custom
	for _, name := range slices.Sorted(maps.Keys(f.definitions)) {
		definitions = append(definitions, f.definitions[name])
		custom = append(custom, f.definitions[name].custom)
	}
	f.documents = documentsOf(definitions, f.documents)
	f.registry.SetCustom(custom, f.documents)
	if before != nil {
		before.end()
	}
}
