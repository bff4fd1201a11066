package resource

import (
	"context"
	"errors"
	"slices"

	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// PriorityClasses give names to pods' priorities. Two of them are in every
// cluster and stay.
var PriorityClasses = &Kind{
	Spec:       store.PriorityClasses,
	Singular:   "priorityclass",
	ShortNames: []string{"pc"},
	Strategy: strategy(store.PriorityClasses, "", Rules[*schedulingv1.PriorityClass]{
		PrepareForCreate: func(_ context.Context, class *schedulingv1.PriorityClass) { class.Generation = 1 },
		Validate:         kube.ValidatePriorityClass,
		ValidateUpdate:   kube.ValidatePriorityClassUpdate,
	}),
	onDelete: func(_ context.Context, name string, _ *metav1.DeleteOptions) error {
		if slices.ContainsFunc(kube.SystemPriorityClasses(), func(c *schedulingv1.PriorityClass) bool { return c.Name == name }) {
			return apierrors.NewForbidden(store.PriorityClasses.Resource, name, errors.New("this is a system priority class and cannot be deleted"))
		}
		return nil
	},
}
