package policy

import (
	"context"
	"errors"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/musterhq/muster/control/admission/hook"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// parameters are the objects that policies are configured with.
type parameters struct {
	store *store.Store
	kinds hook.Kinds
}

// of finds the parameters of one kind, as upstream's dispatchers look for them.
func (p *parameters) of(ctx context.Context, kind *admissionregistrationv1.ParamKind) (informers.GenericInformer, meta.RESTScope, error) {
	gv, err := schema.ParseGroupVersion(kind.APIVersion)
	if err != nil {
		return nil, nil, fmt.Errorf("failed to parse paramKind APIVersion: %w", err)
	}
	gvk := gv.WithKind(kind.Kind)
	for _, k := range p.kinds() {
		if k.Spec.Kind != gvk {
			continue
		}
		scope := meta.RESTScopeRoot
		if k.Namespaced() {
			scope = meta.RESTScopeNamespace
		}
		return params{ctx: ctx, store: p.store, kind: k}, scope, nil
	}
	return nil, nil, fmt.Errorf("failed to find resource referenced by paramKind: '%v'", gvk)
}

// params are the objects of one kind on this replica, all of them or those of a
// namespace. It is upstream's informer and lister in one.
type params struct {
	ctx       context.Context // of the request
	store     *store.Store
	kind      *resource.Kind
	namespace string
}

var (
	_ informers.GenericInformer    = params{}
	_ cache.GenericNamespaceLister = params{}
)

func (p params) Informer() cache.SharedIndexInformer { return synced{} }
func (p params) Lister() cache.GenericLister         { return p }

func (p params) ByNamespace(namespace string) cache.GenericNamespaceLister {
	p.namespace = namespace
	return p
}

// Get looks again when this replica might lag behind the one through which the
// object was created.
func (p params) Get(name string) (runtime.Object, error) {
	table := p.store.Table(p.kind.Spec)
	obj, err := table.Get(p.ctx, p.namespace, name)
	if errors.Is(err, store.ErrNotFound) {
		if err := p.store.ReadBarrier(p.ctx); err != nil {
			return nil, err
		}
		obj, err = table.Get(p.ctx, p.namespace, name)
	}
	if errors.Is(err, store.ErrNotFound) {
		return nil, apierrors.NewNotFound(p.kind.Spec.Resource, name)
	}
	if err != nil {
		return nil, err
	}
	return shown(obj), nil
}

func (p params) List(selector labels.Selector) ([]runtime.Object, error) {
	page, err := p.store.Table(p.kind.Spec).List(p.ctx, store.ListOptions{Namespace: p.namespace, Labels: selector})
	if err != nil {
		return nil, err
	}
	var all []runtime.Object
	for _, item := range page.Items {
		obj, err := store.Decode(p.kind.Spec, item)
		if err != nil {
			return nil, err
		}
		all = append(all, shown(obj))
	}
	return all, nil
}

// shown is an object as expressions read it: what is not a Go type as a tree.
func shown(obj store.Object) runtime.Object {
	if custom, ok := obj.(runtime.Unstructured); ok {
		return &unstructured.Unstructured{Object: custom.UnstructuredContent()}
	}
	return obj
}

// synced stands for a cache that holds what is stored.
type synced struct{ cache.SharedIndexInformer }

func (synced) HasSynced() bool { return true }

// namespaces are read from this replica, for upstream's matcher.
type namespaces struct{ hook.Namespaces }

func (n namespaces) List(labels.Selector) ([]*corev1.Namespace, error) {
	return nil, errors.New("the matcher lists no namespaces")
}

// Get answers an error of its own for a namespace that is not there: with
// upstream's the matcher would ask an API server.
func (n namespaces) Get(name string) (*corev1.Namespace, error) {
	ns, err := n.Namespaces.Get(context.Background(), name)
	if apierrors.IsNotFound(err) {
		return nil, apierrors.NewGone(err.Error())
	}
	return ns, err
}
