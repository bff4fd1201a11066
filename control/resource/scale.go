package resource

import (
	"cmp"
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	upstream "k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/managedfields"
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
	// Path is where the object has the wanted count; nil stands for spec.replicas.
	Path fieldpath.Path
	// Missing says why an object has no count to show; nil: all have one.
	Missing func(store.Object) error
	// strategy are the kind's own rules, under the subresource's name.
	strategy *Strategy
}

// NewScale makes a Scale with the kind's own rules, under the subresource's
// name, for kinds that are not made here.
func NewScale(strategy *Strategy, of Scale) *Scale {
	of.strategy = strategy
	return &of
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

// scaleManager keeps the managed fields of scales.
var scaleManager = managedfields.New(autoscalingv1.SchemeGroupVersion.WithKind("Scale"), scaleSubresource, managedfields.Reset{})

// ApplyScale makes what current becomes when manager applies config: a change
// for UpdateScale, with FieldsManaged.
func ApplyScale(current *autoscalingv1.Scale, config runtime.Object, manager string, force bool) (*autoscalingv1.Scale, error) {
	scale, err := scaleManager.Apply(current, config.DeepCopyObject(), manager, force)
	if err != nil {
		return nil, applyError(err)
	}
	return scale.(*autoscalingv1.Scale), nil
}

// scaleFields translates between who owns the count in obj and who owns it in
// the scale.
func (k *Kind) scaleFields(obj store.Object) *upstream.ScaleHandler {
	path := k.Scale.Path
	if path == nil {
		path = fieldpath.MakePathOrDie("spec", "replicas")
	}
	paths := upstream.ResourcePathMappings{k.Spec.Kind.GroupVersion().String(): path}
	for _, version := range kube.Scheme.PrioritizedVersionsForGroup(k.Spec.Kind.Group) {
		paths[version.String()] = path
	}
	return upstream.NewScaleHandler(obj.GetManagedFields(), k.Spec.Kind.GroupVersion(), paths)
}

// UpdateScale changes an object's replica count. change makes the new scale
// from the current one, under the same terms as in Update.
func (r *Registry) UpdateScale(ctx context.Context, kind *Kind, ns, name string, change func(current *autoscalingv1.Scale) (*autoscalingv1.Scale, error), options UpdateOptions) (*autoscalingv1.Scale, error) {
	if kind.Scale == nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("%s have no scale", kind.Spec.Resource))
	}
	options.ForceAllowCreate = false
	managed := options.FieldsManaged
	options.FieldsManaged = true
	obj, _, err := r.Update(ctx, kind, ns, name, scaleSubresource, func(current store.Object) (store.Object, error) {
		old := kind.ScaleOf(current)
		fields := kind.scaleFields(current)
		var err error
		if old.ManagedFields, err = fields.ToSubresource(); err != nil {
			return nil, err
		}
		scale, err := change(old.DeepCopy())
		if err != nil {
			return nil, err
		}
		if !managed {
			scale = scaleManager.UpdateNoErrors(old, scale, cmp.Or(options.FieldManager, controlPlane)).(*autoscalingv1.Scale)
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
		owners, err := fields.ToParent(scale.ManagedFields)
		if err != nil {
			return nil, err
		}
		current.SetManagedFields(owners)
		return current, nil
	}, options)
	if err != nil {
		return nil, err
	}
	return kind.ScaleOf(obj), nil
}
