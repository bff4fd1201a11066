package resource

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// Kind is one served and stored kind: where it is stored, how it is called, and
// its rules. A Kind is never changed once it is in a Catalog.
type Kind struct {
	Spec     *store.Spec
	Singular string
	// ListKind is what a list of it is called; empty: the kind and "List".
	ListKind string
	// StoredAs is the kind, in its version, that objects are stored as, where that
	// is another one than the requests'.
	StoredAs schema.GroupVersionKind
	// ShortNames and Categories are what kubectl also understands.
	ShortNames, Categories []string
	// Verbs of the resource itself; nil stands for all of AllVerbs.
	Verbs []string
	// Strategy are the rules for writes of the object itself.
	Strategy *Strategy
	// Subresources in the order in which discovery lists them.
	Subresources []*Subresource
	// Scale, for kinds with a scale subresource.
	Scale *Scale
	// Schema, for kinds that users defined: it says what a Go type says of others.
	Schema Schema
	// FieldManager keeps the managed fields for writes through a subresource, ""
	// for the object itself. Nil: the kind is built in and its schema known.
	FieldManager func(subresource string) FieldManager
	// ReturnDeletedObject says that the answer to a delete is the object's last
	// state instead of a Status.
	ReturnDeletedObject bool
	// Deprecated is what everybody who asks for the kind is told; empty for nothing.
	Deprecated string
	// Companions, for kinds that write more than their objects.
	Companions *Companions
	// beforeDelete is what a delete means for this kind before the general rules
	// apply. It may change obj.
	beforeDelete func(obj store.Object, now metav1.Time) deletion
	// onDelete hears of each delete that is asked for, and may warn or refuse.
	onDelete func(ctx context.Context, name string, options *metav1.DeleteOptions) error
	// held says that something besides finalizers keeps an object that is being
	// deleted.
	held func(obj store.Object) bool
}

// Schema is what a kind's objects look like where no Go type says it. Its objects
// are *unstructured.Unstructured and have no protobuf form.
type Schema interface {
	// Coerce makes of a decoded document what decoding into a Go type would: what
	// the schema does not know is dropped. With report the paths of that are told.
	Coerce(obj store.Object, report bool) (unknown []string, err error)
	// Default fills in what the user left out.
	Default(obj store.Object)
	// Table shows an object, or the items of a list, as rows.
	Table(ctx context.Context, obj runtime.Object) (*metav1.Table, error)
	// FieldSelector checks what a selector asks about. An error is the user's.
	FieldSelector(fields.Selector) (fields.Selector, error)
	// Demand is what must hold for obj to be created, or why it must not be.
	Demand(s *store.Store, obj store.Object) (store.Write, error)
	// Deprecated is what whoever uses this version should know, or empty.
	Deprecated() string
	// Until ends when the kind is not served like this any more. Watches end
	// then, so that their clients come back and see what it has become.
	Until() context.Context
}

// AllVerbs are what a stored kind offers.
var AllVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// Subresource is a part of a kind with a path, verbs and perhaps rules of its own.
type Subresource struct {
	Name string
	// Kind is what the path takes and answers.
	Kind  schema.GroupVersionKind
	Verbs []string
	// Strategy are the rules by which Registry.Update changes the object through
	// this subresource. Nil: it is no view of the stored object, and whoever
	// serves it knows it by name (binding, scale, log, exec).
	Strategy *Strategy
}

// status is the subresource of that name, with rules of its own.
func status[T store.Object](spec *store.Spec, rules Rules[T]) *Subresource {
	return &Subresource{
		Name: "status", Kind: spec.Kind, Verbs: []string{"get", "patch", "update"},
		Strategy: strategy(spec, "status", rules),
	}
}

// GroupVersionResource is how requests name the kind.
func (k *Kind) GroupVersionResource() schema.GroupVersionResource {
	return k.Spec.Kind.GroupVersion().WithResource(k.Spec.Resource.Resource)
}

// Namespaced says whether objects of this kind live in a namespace.
func (k *Kind) Namespaced() bool { return k.Spec.Namespaced }

// ListGroupVersionKind is what a list of the kind is.
func (k *Kind) ListGroupVersionKind() schema.GroupVersionKind {
	return k.Spec.Kind.GroupVersion().WithKind(cmp.Or(k.ListKind, k.Spec.Kind.Kind+"List"))
}

// Default fills in what the user of an object left out.
func (k *Kind) Default(obj store.Object) {
	if k.Schema != nil {
		k.Schema.Default(obj)
		return
	}
	kube.Default(obj)
}

// FieldSelector checks what a selector asks of the kind. An error is the user's.
func (k *Kind) FieldSelector(selector fields.Selector) (fields.Selector, error) {
	if k.Schema != nil {
		return k.Schema.FieldSelector(selector)
	}
	return kube.FieldSelector(k.Spec.Kind, selector)
}

// Table shows an object, or the items of a list, as kubectl get does.
func (k *Kind) Table(ctx context.Context, obj runtime.Object) (*metav1.Table, error) {
	if k.Schema != nil {
		return k.Schema.Table(ctx, obj)
	}
	return kube.Table(ctx, k.Spec.Resource, obj)
}

// Subresource finds one by name, or nil.
func (k *Kind) Subresource(name string) *Subresource {
	for _, s := range k.Subresources {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// SubresourceNames are the names of its subresources, in their order.
func (k *Kind) SubresourceNames() []string {
	var names []string
	for _, s := range k.Subresources {
		names = append(names, s.Name)
	}
	return names
}

// APIResources is how discovery lists the kind and its subresources.
func (k *Kind) APIResources() []metav1.APIResource {
	verbs := k.Verbs
	if verbs == nil {
		verbs = AllVerbs
	}
	resources := []metav1.APIResource{{
		Name:         k.Spec.Resource.Resource,
		SingularName: k.Singular,
		Namespaced:   k.Spec.Namespaced,
		Kind:         k.Spec.Kind.Kind,
		Verbs:        slices.Clone(verbs),
		ShortNames:   k.ShortNames,
		Categories:   k.Categories,

		StorageVersionHash: k.storageVersionHash(),
	}}
	for _, s := range k.Subresources {
		r := metav1.APIResource{
			Name:       k.Spec.Resource.Resource + "/" + s.Name,
			Namespaced: k.Spec.Namespaced,
			Kind:       s.Kind.Kind,
			Verbs:      slices.Clone(s.Verbs),
		}
		if s.Kind.GroupVersion() != k.Spec.Kind.GroupVersion() {
			r.Group, r.Version = s.Kind.Group, s.Kind.Version
		}
		resources = append(resources, r)
	}
	return resources
}

// storageVersionHash lets clients see that objects are stored in another version
// than before, as upstream's does.
func (k *Kind) storageVersionHash() string {
	as := k.StoredAs
	if as.Empty() {
		as = k.Spec.Kind
	}
	sum := sha256.Sum256([]byte(as.Group + "/" + as.Version + "/" + as.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

// strategy finds the rules of the object itself or of a subresource, or nil.
func (k *Kind) strategy(subresource string) *Strategy {
	if subresource == "" {
		return k.Strategy
	}
	if k.Scale != nil && subresource == scaleSubresource {
		return k.Scale.strategy
	}
	if s := k.Subresource(subresource); s != nil {
		return s.Strategy
	}
	return nil
}
