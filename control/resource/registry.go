package resource

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/store"
)

// Registry takes writes of every kind through their rules into a store. It may
// be used from any goroutine.
type Registry struct {
	store     *store.Store
	admission Admission
	kinds     []*Kind
	byName    map[schema.GroupResource]*Kind
}

// kinds are all that is built in, a list for each family of groups beside its
// kinds. A new kind is one line in one of them and a file of its own.
var kinds = slices.Concat(coreKinds, appsKinds, admissionKinds, networkingKinds)

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

// Builtin are the kinds that every cluster serves. Not to be changed.
func Builtin() []*Kind { return kinds }

// New serves all kinds from s, with every write checked by chain.
func New(s *store.Store, chain Admission) *Registry {
	r := &Registry{store: s, admission: chain, kinds: kinds, byName: map[schema.GroupResource]*Kind{}}
	for _, k := range kinds {
		if r.byName[k.Spec.Resource] != nil {
			panic(fmt.Sprintf("resource: %s is registered twice", k.Spec.Resource))
		}
		r.byName[k.Spec.Resource] = k
	}
	return r
}

// With is the same registry over another view of the store: leader duties write
// through the log of their term.
func (r *Registry) With(s *store.Store) *Registry {
	copied := *r
	copied.store = s
	return &copied
}

// Store is what the registry writes to.
func (r *Registry) Store() *store.Store { return r.store }

// Kinds are all served kinds, in the order of discovery. Not to be changed.
func (r *Registry) Kinds() []*Kind { return r.kinds }

// Kind finds a kind by its resource, or nil.
func (r *Registry) Kind(resource schema.GroupResource) *Kind { return r.byName[resource] }
