package kube

import (
	"context"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
)

// ValidateEventV1 says what is wrong with a new events.k8s.io/v1 event, of which
// more is asked than of one of core/v1.
func ValidateEventV1(_ context.Context, event *eventsv1.Event) field.ErrorList {
	return validation.ValidateEventCreate(internal[*core.Event](event), eventsv1.SchemeGroupVersion)
}

// ValidateEventV1Update says what of event must not differ from old so.
func ValidateEventV1Update(_ context.Context, event, old *eventsv1.Event) field.ErrorList {
	return validation.ValidateEventUpdate(internal[*core.Event](event), internal[*core.Event](old), eventsv1.SchemeGroupVersion)
}
