package resource

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

const scaleSubresource = "scale"

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// Scale shows a kind's replica count as autoscaling/v1 Scale.
type Scale struct {
	// Get reads the wanted count, the current one, and the selector of what is counted.
	Get func(store.Object) (replicas, current int32, selector string)
	// Set changes the wanted count.
	Set func(obj store.Object, replicas int32)
	// strategy are the kind's own rules, under the subresource's name.
	strategy *Strategy
}

// scaleResource is how a kind with a Scale lists it.
var scaleResource = &Subresource{
	Name: scaleSubresource, Kind: autoscalingv1.SchemeGroupVersion.WithKind("Scale"), Verbs: []string{"get", "patch", "update"},
}

// selectorText is a selector that was validated when it was stored, as a Scale
// shows it.
func selectorText(selector *metav1.LabelSelector) string {
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return ""
	}
	return s.String()
}

// ScaleOf is an object's scale.
func (k *Kind) ScaleOf(obj store.Object) *autoscalingv1.Scale {
	replicas, current, selector := k.Scale.Get(obj)
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name:              obj.GetName(),
			Namespace:         obj.GetNamespace(),
			UID:               obj.GetUID(),
			ResourceVersion:   obj.GetResourceVersion(),
			CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: replicas},
		Status: autoscalingv1.ScaleStatus{Replicas: current, Selector: selector},
	}
}

// UpdateScale changes an object's replica count. change makes the new scale
// from the current one, under the same terms as in Update.
func (r *Registry) UpdateScale(ctx context.Context, kind *Kind, ns, name string, change func(current *autoscalingv1.Scale) (*autoscalingv1.Scale, error), options UpdateOptions) (*autoscalingv1.Scale, error) {
	if kind.Scale == nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("%s have no scale", kind.Spec.Resource))
	}
	options.ForceAllowCreate = false
	obj, _, err := r.Update(ctx, kind, ns, name, scaleSubresource, func(current store.Object) (store.Object, error) {
		old := kind.ScaleOf(current)
		scale, err := change(old.DeepCopy())
		if err != nil {
			return nil, err
		}
		if errs := kube.ValidateScaleUpdate(ctx, scale, old); len(errs) > 0 {
			return nil, apierrors.NewInvalid(scaleKind.GroupKind(), name, errs)
		}
		if scale.UID != "" {
			if err := kind.checkUID(name, &scale.UID, current.GetUID()); err != nil {
				return nil, err
			}
		}
		kind.Scale.Set(current, scale.Spec.Replicas)
		current.SetResourceVersion(scale.ResourceVersion)
		return current, nil
	}, options)
	if err != nil {
		return nil, err
	}
	return kind.ScaleOf(obj), nil
}
