package kube

import (
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/deviceclass/extendedresourcecache"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/quota/v1/evaluator/core"
	"k8s.io/utils/clock"
)

// ListObjects lists the objects of a resource in a namespace.
type ListObjects func(resource schema.GroupResource, namespace string) ([]runtime.Object, error)

// Quotas measure objects as resource quotas count them: pods by what they ask
// for, services and claims by their types, claims to devices by their classes,
// everything by its number.
type Quotas struct {
	list       ListObjects
	evaluators map[schema.GroupResource]quota.Evaluator
}

// counted are the resources whose number has had a name of its own for longer
// than there has been count/.
var counted = map[schema.GroupVersionResource]corev1.ResourceName{
	corev1.SchemeGroupVersion.WithResource("configmaps"):             corev1.ResourceConfigMaps,
	corev1.SchemeGroupVersion.WithResource("resourcequotas"):         corev1.ResourceQuotas,
	corev1.SchemeGroupVersion.WithResource("replicationcontrollers"): corev1.ResourceReplicationControllers,
	corev1.SchemeGroupVersion.WithResource("secrets"):                corev1.ResourceSecrets,
}

// NewQuotas measures what list lists. Who measures single objects only needs no
// list.
func NewQuotas(list ListObjects) *Quotas {
	lister := func(resource schema.GroupVersionResource) (cache.GenericLister, error) {
		return quotaLister{list, resource.GroupResource(), ""}, nil
	}
	q := &Quotas{list: list, evaluators: map[schema.GroupResource]quota.Evaluator{}}
	for _, e := range []quota.Evaluator{
		core.NewPodEvaluator(lister, clock.RealClock{}), core.NewServiceEvaluator(lister), core.NewPersistentVolumeClaimEvaluator(lister),
		// Extended resources are not made of device classes here: the last three say nothing.
		core.NewResourceClaimEvaluator(lister, extendedresourcecache.NewExtendedResourceCache(klog.Logger{}), nil, nil),
	} {
		q.evaluators[e.GroupResource()] = e
	}
	for resource, alias := range counted {
		q.evaluators[resource.GroupResource()] = generic.NewObjectCountEvaluator(resource.GroupResource(), generic.ListResourceUsingListerFunc(lister, resource), alias)
	}
	return q
}

// Of is what measures a resource; nil for one that quotas leave alone.
func (q *Quotas) Of(resource schema.GroupResource) quota.Evaluator {
	if e := q.evaluators[resource]; e != nil {
		return e
	}
	if resource == (schema.GroupResource{Resource: "events"}) || resource == (schema.GroupResource{Group: "events.k8s.io", Resource: "events"}) {
		return nil
	}
	return generic.NewObjectCountEvaluator(resource, func(namespace string) ([]runtime.Object, error) { return q.list(resource, namespace) }, "")
}

// Usage is how much of what a quota limits is used in its namespace, of the
// resources given. What none of them is about is left out.
func (q *Quotas) Usage(resources []schema.GroupResource, of *corev1.ResourceQuota) (corev1.ResourceList, error) {
	var evaluators []quota.Evaluator
	for _, resource := range resources {
		if e := q.Of(resource); e != nil {
			evaluators = append(evaluators, e)
		}
	}
	hard := of.Spec.Hard
	used, err := quota.CalculateUsage(of.Namespace, of.Spec.Scopes, hard, generic.NewRegistry(evaluators), of.Spec.ScopeSelector)
	if err != nil {
		return nil, err
	}
	return quota.Mask(used, quota.ResourceNames(hard)), nil
}

// Replenishes says whether a change of an object can make room in a quota, or
// have another quota count it.
func Replenishes(old, now runtime.Object) bool {
	switch old := old.(type) {
	case *corev1.Pod:
		now := now.(*corev1.Pod)
		return core.IsTerminating(old) != core.IsTerminating(now) ||
			core.QuotaV1Pod(old, clock.RealClock{}) && !core.QuotaV1Pod(now, clock.RealClock{}) ||
			!apiequality.Semantic.DeepEqual(old.Spec.Containers, now.Spec.Containers) || !apiequality.Semantic.DeepEqual(old.Status.ContainerStatuses, now.Status.ContainerStatuses)
	case *corev1.Service:
		return core.GetQuotaServiceType(old) != core.GetQuotaServiceType(now.(*corev1.Service))
	case *corev1.PersistentVolumeClaim:
		return core.RequiresQuotaReplenish(now.(*corev1.PersistentVolumeClaim), old)
	}
	return false
}

// quotaLister is upstream's lister over a ListObjects.
type quotaLister struct {
	list      ListObjects
	resource  schema.GroupResource
	namespace string
}

func (l quotaLister) List(labels.Selector) ([]runtime.Object, error) {
	return l.list(l.resource, l.namespace)
}

func (l quotaLister) Get(name string) (runtime.Object, error) {
	return nil, apierrors.NewNotFound(l.resource, name)
}

func (l quotaLister) ByNamespace(namespace string) cache.GenericNamespaceLister {
	l.namespace = namespace
	return l
}
