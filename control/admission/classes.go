package admission

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/admission/hook"
	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// Annotations by which a class is that of objects that name none.
const (
	defaultStorageClass    = "storageclass.kubernetes.io/is-default-class"
	oldDefaultStorageClass = "storageclass.beta.kubernetes.io/is-default-class"
	oldIngressClass        = "kubernetes.io/ingress.class"
)

// classes are the objects of a kind of class, by name.
type classes[T store.Object] struct {
	byName map[string]T
	// standard is for objects that name none.
	standard T
	some     bool
}

// newClasses keeps the classes of a kind. Of several that are the standard, the
// newest is.
func newClasses[T store.Object](s *store.Store, spec *store.Spec, standard func(T) bool) *hook.Configured[classes[T]] {
	return hook.NewConfigured(s, func(objects [][]store.Object, _ classes[T]) (classes[T], error) {
		all := classes[T]{byName: map[string]T{}}
		for _, obj := range objects[0] {
			class := obj.(T)
			all.byName[class.GetName()] = class
			if !standard(class) {
				continue
			}
			// They come in the order of their names, which decides between those of one moment.
			if created := class.GetCreationTimestamp(); !all.some || created.After(all.standard.GetCreationTimestamp().Time) {
				all.standard, all.some = class, true
			}
		}
		return all, nil
	}, spec)
}

// storageClass gives claims that name no class the standard one, and lets a
// claim grow only where its class allows it.
type storageClass struct {
	classes *hook.Configured[classes[*storagev1.StorageClass]]
}

func newStorageClass(s *store.Store) *storageClass {
	return &storageClass{newClasses(s, store.StorageClasses, func(c *storagev1.StorageClass) bool {
		return c.Annotations[defaultStorageClass] == "true" || c.Annotations[oldDefaultStorageClass] == "true"
	})}
}

func (c *storageClass) Admit(_ context.Context, a *resource.Attributes) error {
	if a.Kind != resource.PersistentVolumeClaims || a.Subresource != "" || a.Operation != resource.Create {
		return nil
	}
	claim := a.Object.(*corev1.PersistentVolumeClaim)
	if _, named := claim.Annotations[corev1.BetaStorageClassAnnotation]; named || claim.Spec.StorageClassName != nil {
		return nil
	}
	all, err := c.classes.Now()
	if err != nil || !all.some {
		return err
	}
	claim.Spec.StorageClassName = ptr.To(all.standard.Name)
	return nil
}

func (c *storageClass) Validate(_ context.Context, a *resource.Attributes) error {
	if a.Kind != resource.PersistentVolumeClaims || a.Subresource != "" || a.Operation != resource.Update {
		return nil
	}
	claim, old := a.Object.(*corev1.PersistentVolumeClaim), a.OldObject.(*corev1.PersistentVolumeClaim)
	size, before := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if size.Cmp(before) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return a.Forbidden(errors.New("Only bound persistent volume claims can be expanded")) //nolint:staticcheck // upstream's wording
	}
	all, err := c.classes.Now()
	if err != nil {
		return err
	}
	name := classOf(claim)
	class := all.byName[name]
	if name == "" || name != classOf(old) || class == nil || !ptr.Deref(class.AllowVolumeExpansion, false) {
		return a.Forbidden(errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
	}
	return nil
}

func classOf(claim *corev1.PersistentVolumeClaim) string {
	if name, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	return ptr.Deref(claim.Spec.StorageClassName, "")
}

// ingressClass gives ingresses that name no class the standard one.
type ingressClass struct {
	mutating
	classes *hook.Configured[classes[*networkingv1.IngressClass]]
}

func newIngressClass(s *store.Store) *ingressClass {
	return &ingressClass{classes: newClasses(s, store.IngressClasses, func(c *networkingv1.IngressClass) bool {
		return c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true"
	})}
}

func (c *ingressClass) Admit(_ context.Context, a *resource.Attributes) error {
	if a.Kind != resource.Ingresses || a.Subresource != "" || a.Operation != resource.Create {
		return nil
	}
	ingress := a.Object.(*networkingv1.Ingress)
	if _, named := ingress.Annotations[oldIngressClass]; named || ingress.Spec.IngressClassName != nil {
		return nil
	}
	all, err := c.classes.Now()
	if err != nil || !all.some {
		return err
	}
	ingress.Spec.IngressClassName = ptr.To(all.standard.Name)
	return nil
}

// runtimeClass gives pods what their runtime class says: the overhead of its
// sandboxes, and the nodes that have it.
type runtimeClass struct {
	store   *store.Store
	classes *hook.Configured[classes[*nodev1.RuntimeClass]]
}

func newRuntimeClass(s *store.Store) *runtimeClass {
	return &runtimeClass{s, newClasses(s, store.RuntimeClasses, func(*nodev1.RuntimeClass) bool { return false })}
}

func (c *runtimeClass) Admit(ctx context.Context, a *resource.Attributes) error {
	pod, class, err := c.of(ctx, a)
	if pod == nil || class == nil || err != nil {
		return err
	}
	if class.Overhead != nil {
		if len(pod.Spec.Overhead) > 0 && !apiequality.Semantic.DeepEqual(pod.Spec.Overhead, class.Overhead.PodFixed) {
			return a.Forbidden(errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	for key, value := range class.Scheduling.NodeSelector {
		if has, ok := pod.Spec.NodeSelector[key]; ok && has != value {
			return a.Forbidden(fmt.Errorf("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, has))
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[key] = value
	}
	if len(class.Scheduling.Tolerations) > 0 {
		kube.AddTolerations(pod, class.Scheduling.Tolerations)
	}
	return nil
}

func (c *runtimeClass) Validate(ctx context.Context, a *resource.Attributes) error {
	pod, class, err := c.of(ctx, a)
	if pod == nil || err != nil {
		return err
	}
	switch {
	case class != nil && class.Overhead != nil:
		if !apiequality.Semantic.DeepEqual(pod.Spec.Overhead, class.Overhead.PodFixed) {
			return a.Forbidden(errors.New("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"))
		}
	case pod.Spec.Overhead != nil:
		return a.Forbidden(errors.New("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
	}
	return nil
}

// of is the new pod that a write is about, if it is, and its class, if it has one.
func (c *runtimeClass) of(ctx context.Context, a *resource.Attributes) (*corev1.Pod, *nodev1.RuntimeClass, error) {
	if a.Kind != resource.Pods || a.Subresource != "" || a.Operation != resource.Create {
		return nil, nil, nil
	}
	pod := a.Object.(*corev1.Pod)
	if pod.Spec.RuntimeClassName == nil {
		return pod, nil, nil
	}
	name := *pod.Spec.RuntimeClassName
	for current := false; ; current = true {
		all, err := c.classes.Now()
		switch {
		case err != nil:
			return nil, nil, err
		case all.byName[name] != nil:
			return pod, all.byName[name], nil
		case current:
			return nil, nil, a.Forbidden(fmt.Errorf("pod rejected: RuntimeClass %q not found", name))
		}
		// It may have been created a moment ago through another node.
		if err := c.store.ReadBarrier(ctx); err != nil {
			return nil, nil, err
		}
	}
}
