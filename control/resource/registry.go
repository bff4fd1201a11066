package resource

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/store"
)

// Registry takes writes of every kind through their rules into a store. It may
// be used from any goroutine.
type Registry struct {
	store     *store.Store
	admission Admission
	served    *served // shared by all that With returns
	// rehearsing: see Rehearsing.
	rehearsing bool
}

// kinds are all that is built in, a list for each family of groups beside its
// kinds. A new kind is one line in one of them and a file of its own.
var kinds = slices.Concat(coreKinds, appsKinds, admissionKinds, networkingKinds, clusterKinds, deviceKinds, extensionKinds, apiregistrationKinds, rbacKinds)

// coreKinds are those of core/v1.
var coreKinds = []*Kind{
	ConfigMaps,
	Endpoints,
	Events,
	LimitRanges,
	Namespaces,
	Nodes,
	PersistentVolumeClaims,
	PersistentVolumes,
	Pods,
	PodTemplates,
	ReplicationControllers,
	ResourceQuotas,
	Secrets,
	ServiceAccounts,
	Services,
}

// networkingKinds are those of discovery.k8s.io and networking.k8s.io.
var networkingKinds = []*Kind{
	EndpointSlices,
	Ingresses,
	IngressClasses,
	IPAddresses,
	NetworkPolicies,
	ServiceCIDRs,
}

// Builtin are the kinds that every cluster serves, in each of their versions. Not
// to be changed.
func Builtin() []*Kind { return newBuiltin(kinds, versions).served }

// New serves all kinds from s, with every write checked by chain.
func New(s *store.Store, chain Admission) *Registry {
	return &Registry{store: s, admission: chain, served: newServed()}
}

// With is the same registry over another view of the store: leader duties write
// through the log of their term.
func (r *Registry) With(s *store.Store) *Registry {
	copied := *r
	copied.store = s
	return &copied
}

// Rehearsing is the same registry over a store in which nothing is real: it stores dry
// runs, so that those who come after see what they did. Webhooks and whatever else is
// asked are told of a dry run.
func (r *Registry) Rehearsing() *Registry {
	copied := *r
	copied.rehearsing, copied.admission = true, rehearsed{r.admission}
	return &copied
}

// rehearsed is admission that is told of a dry run of every write: what controllers write
// in a rehearsal is no more real than what was asked for, nor is a stream.
type rehearsed struct{ Admission }

func (r rehearsed) Admit(ctx context.Context, a *Attributes) error {
	a.DryRun = true
	return r.Admission.Admit(ctx, a)
}

func (r rehearsed) Validate(ctx context.Context, a *Attributes) error {
	a.DryRun = true
	return r.Admission.Validate(ctx, a)
}

// pretends says whether a write is to end before the store.
func (r *Registry) pretends(dryRun bool) bool { return dryRun && !r.rehearsing }

// Store is what the registry writes to.
func (r *Registry) Store() *store.Store { return r.store }

// Catalog is what is served now. It never changes; the next call may return
// another one.
func (r *Registry) Catalog() *Catalog { return r.served.now.Load() }

// Kinds are all stored kinds of this moment, see Catalog.Kinds.
func (r *Registry) Kinds() []*Kind { return r.Catalog().Kinds() }

// Kind finds a kind by its resource, or nil.
func (r *Registry) Kind(resource schema.GroupResource) *Kind { return r.Catalog().Kind(resource) }

// SetCustom replaces the kinds that users defined, all of them, and what
// describes them. One goroutine calls it.
func (r *Registry) SetCustom(custom []Custom, documents []Document) {
	r.served.setCustom(custom, documents)
}

// KeptBy names who calls SetCustom: current returns once the kinds are those
// that the replica defines at the time of the call. For the wiring, before the
// registry is used.
func (r *Registry) KeptBy(current func(context.Context) error) { r.served.current = current }

// Current returns once the kinds that users defined are as this node's replica
// has them. Who does not find a kind calls it, after a read barrier, before it
// says so.
func (r *Registry) Current(ctx context.Context) error {
	if r.served.current == nil {
		return nil
	}
	return r.served.current(ctx)
}
