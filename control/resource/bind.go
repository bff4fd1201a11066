package resource

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/kube"
)

// bindingResource is what upstream calls bindings in their conflicts.
var bindingResource = schema.GroupResource{Resource: "pods/binding"}

// Binding gives a pod to a node.
type Binding struct {
	Namespace, Pod string
	// UID of the pod that was scheduled; empty binds whichever has the name.
	UID  types.UID
	Node string
	// ResourceVersion, when set, is the only one that will be bound.
	ResourceVersion string
	// Annotations and Labels are added to the pod's.
	Annotations, Labels map[string]string
}

// Bind serves pods/binding: it is validated and admitted as a create of the
// binding, then done as by BindMany.
func (r *Registry) Bind(ctx context.Context, ns, pod string, binding *corev1.Binding, options CreateOptions) error {
	if binding.Name != pod {
		return apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	return r.bind(ctx, Pods, "binding", ns, binding, options)
}

// CreateBinding serves bindings, where a binding says itself which pod it is for.
func (r *Registry) CreateBinding(ctx context.Context, ns string, binding *corev1.Binding, options CreateOptions) error {
	return r.bind(ctx, bindings, "", ns, binding, options)
}

// bind is admitted as a create of the kind or subresource that was asked for.
func (r *Registry) bind(ctx context.Context, as *Kind, subresource, ns string, binding *corev1.Binding, options CreateOptions) error {
	pod := binding.Name
	if binding.Namespace == "" {
		binding.Namespace = ns
	}
	if binding.Namespace != ns {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	if errs := kube.ValidateBinding(binding); len(errs) > 0 {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Binding").GroupKind(), pod, errs)
	}
	if err := r.AdmitRequest(ctx, as, ns, pod, subresource, corev1.SchemeGroupVersion.WithKind("Binding"), binding, options); err != nil {
		return err
	}
	return r.changePods(ctx, options.DryRun, []podChange{(&Binding{
		Namespace: ns, Pod: pod, UID: binding.UID, ResourceVersion: binding.ResourceVersion,
		Node: binding.Target.Name, Annotations: binding.Annotations, Labels: binding.Labels,
	}).change(time.Now())})[0]
}

// BindMany gives many pods to nodes at once, and answers for each. Each binding
// is one write that sets the node and the PodScheduled condition, and happens
// only to the very pod that was scheduled, still unbound and not being deleted.
// The scheduler is trusted: nothing is admitted or validated.
func (r *Registry) BindMany(ctx context.Context, bindings []Binding) []error {
	now := time.Now()
	changes := make([]podChange, len(bindings))
	for i := range bindings {
		changes[i] = bindings[i].change(now)
	}
	return r.changePods(ctx, false, changes)
}

// change is the binding as a change of the pod.
func (b *Binding) change(now time.Time) podChange {
	return podChange{namespace: b.Namespace, name: b.Pod, apply: func(pod *corev1.Pod) error {
		if err := Pods.checkUID(b.Pod, nonEmpty(b.UID), pod.UID); err != nil {
			return err
		}
		if b.ResourceVersion != "" && b.ResourceVersion != pod.ResourceVersion {
			return apierrors.NewConflict(Pods.Spec.Resource, b.Pod, fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", //nolint:staticcheck // upstream's wording
				b.ResourceVersion, pod.ResourceVersion))
		}
		if reason := unbindable(pod); reason != nil {
			return apierrors.NewConflict(bindingResource, b.Pod, reason)
		}
		pod.Spec.NodeName = b.Node
		pod.Status.NominatedNodeName = ""
		if len(b.Annotations) > 0 {
			if pod.Annotations == nil {
				pod.Annotations = map[string]string{}
			}
			maps.Copy(pod.Annotations, b.Annotations)
			kube.DropInitContainerAnnotations(pod.Annotations)
		}
		if len(b.Labels) > 0 {
			if pod.Labels == nil {
				pod.Labels = map[string]string{}
			}
			maps.Copy(pod.Labels, b.Labels)
		}
		setCondition(&pod.Status, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, now)
		return nil
	}}
}

// unbindable is why a pod cannot be given to any node.
func unbindable(pod *corev1.Pod) error {
	switch {
	case pod.DeletionTimestamp != nil:
		return fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", pod.Name)
	case pod.Spec.NodeName != "":
		return fmt.Errorf("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
	case len(pod.Spec.SchedulingGates) > 0:
		return fmt.Errorf("pod %v has non-empty .spec.schedulingGates", pod.Name)
	}
	return nil
}

// setCondition replaces the condition of its type; the time of transition is
// now only if the status changed.
func setCondition(status *corev1.PodStatus, c corev1.PodCondition, now time.Time) {
	c.LastTransitionTime = metav1.NewTime(now)
	for i, old := range status.Conditions {
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		status.Conditions[i] = c
		return
	}
	status.Conditions = append(status.Conditions, c)
}

func nonEmpty(uid types.UID) *types.UID {
	if uid == "" {
		return nil
	}
	return &uid
}
