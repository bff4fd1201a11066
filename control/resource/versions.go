package resource

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// versions are kinds that are served under another group and version than the
// one that they are stored in. Each is a Kind with rules for objects of its own
// version, over the table of the stored one.
var versions = []*Kind{horizontalPodAutoscalersV1, eventsV1}

// horizontalPodAutoscalersV1 have annotations for what autoscaling/v1 has no fields for.
var horizontalPodAutoscalersV1 = func() *Kind {
	spec := store.Version(store.HorizontalPodAutoscalers, autoscalingv1.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler"),
		&autoscalingv1.HorizontalPodAutoscaler{}, &autoscalingv1.HorizontalPodAutoscalerList{}, kube.Convert)
	kind := *HorizontalPodAutoscalers
	kind.Spec, kind.StoredAs = spec, HorizontalPodAutoscalers.Spec.Kind
	kind.Strategy = strategy(spec, "", autoscalerRules)
	kind.Subresources = []*Subresource{status(spec, autoscalerStatusRules)}
	return &kind
}()

// eventsV1 are events as events.k8s.io/v1 has them, which asks more of new ones.
var eventsV1 = func() *Kind {
	spec := store.Version(store.Events, eventsv1.SchemeGroupVersion.WithKind("Event"), &eventsv1.Event{}, &eventsv1.EventList{}, kube.Convert)
	kind := *Events
	kind.Spec, kind.StoredAs = spec, Events.Spec.Kind
	kind.Strategy = strategy(spec, "", Rules[*eventsv1.Event]{
		Validate:       kube.ValidateEventV1,
		ValidateUpdate: kube.ValidateEventV1Update,
		CreateOnUpdate: true,
		Dependents:     rest.Unsupported,
	})
	return &kind
}()
