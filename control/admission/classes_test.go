package admission

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

func mustCreate[T store.Object](t *testing.T, r *resource.Registry, kind *resource.Kind, ns string, obj T) T {
	t.Helper()
	created, err := r.Create(t.Context(), kind, ns, obj, resource.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return created.(T)
}

func TestPriorityClassesAreObjects(t *testing.T) {
	r := newRegistry(t, Settings{})
	never := corev1.PreemptNever
	mustCreate(t, r, resource.PriorityClasses, "", &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "gold"}, Value: 1000, PreemptionPolicy: &never})
	mustCreate(t, r, resource.PriorityClasses, "", &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "usual"}, Value: 10, GlobalDefault: true})
	gold := newPod("gold")
	gold.Spec.PriorityClassName = "gold"
	if pod, err := create(t, r, "default", gold); err != nil || *pod.Spec.Priority != 1000 || *pod.Spec.PreemptionPolicy != never {
		t.Errorf("%v, %v; want the class's priority and policy", pod, err)
	}
	if pod, err := create(t, r, "default", newPod("plain")); err != nil || pod.Spec.PriorityClassName != "usual" || *pod.Spec.Priority != 10 {
		t.Errorf("%v, %v; want the class for pods that name none", pod, err)
	}
	_, err := r.Create(t.Context(), resource.PriorityClasses, "", &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "other"}, Value: 20, GlobalDefault: true}, resource.CreateOptions{})
	if want := `priorityclasses.scheduling.k8s.io "other" is forbidden: PriorityClass usual is already marked as default. Only one default can exist`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func newClaim(name, size string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: amounts("storage", size)},
	}}
}

func TestClaimsTakeTheStandardClassAndGrowWhereItAllows(t *testing.T) {
	r := newRegistry(t, Settings{})
	for name, grows := range map[string]bool{"fixed": false, "elastic": true} {
		mustCreate(t, r, resource.StorageClasses, "", &storagev1.StorageClass{
			ObjectMeta:  metav1.ObjectMeta{Name: name, Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": map[bool]string{true: "true", false: "false"}[grows]}},
			Provisioner: "example.org/disks", AllowVolumeExpansion: &grows,
		})
	}
	if claim := mustCreate(t, r, resource.PersistentVolumeClaims, "default", newClaim("one", "1Gi")); claim.Spec.StorageClassName == nil || *claim.Spec.StorageClassName != "elastic" {
		t.Errorf("class %v, want the standard one", claim.Spec.StorageClassName)
	}
	none := newClaim("none", "1Gi")
	none.Spec.StorageClassName = ptr.To("")
	if claim := mustCreate(t, r, resource.PersistentVolumeClaims, "default", none); *claim.Spec.StorageClassName != "" {
		t.Errorf("class %q, want none as asked", *claim.Spec.StorageClassName)
	}
	fixed := newClaim("two", "1Gi")
	fixed.Spec.StorageClassName = ptr.To("fixed")
	mustCreate(t, r, resource.PersistentVolumeClaims, "default", fixed)
	grow := func(name string) error {
		_, _, err := r.Update(t.Context(), resource.PersistentVolumeClaims, "default", name, "", func(current store.Object) (store.Object, error) {
			current.(*corev1.PersistentVolumeClaim).Spec.Resources.Requests = amounts("storage", "2Gi")
			return current, nil
		}, resource.UpdateOptions{})
		return err
	}
	bind := func(name string) {
		if _, _, err := r.Update(t.Context(), resource.PersistentVolumeClaims, "default", name, "status", func(current store.Object) (store.Object, error) {
			current.(*corev1.PersistentVolumeClaim).Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: amounts("storage", "1Gi")}
			return current, nil
		}, resource.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	bind("two")
	if err := grow("two"); err == nil || !strings.Contains(err.Error(), "the storageclass that provisions the pvc must support resize") {
		t.Errorf("error %v, want a class that does not grow to be named", err)
	}
}

func TestIngressesTakeTheStandardClass(t *testing.T) {
	r := newRegistry(t, Settings{})
	mustCreate(t, r, resource.IngressClasses, "", &networkingv1.IngressClass{
		ObjectMeta: metav1.ObjectMeta{Name: "front", Annotations: map[string]string{"ingressclass.kubernetes.io/is-default-class": "true"}},
		Spec:       networkingv1.IngressClassSpec{Controller: "example.org/front"},
	})
	backend := &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80}}}
	ingress := mustCreate(t, r, resource.Ingresses, "default", &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: "plain"}, Spec: networkingv1.IngressSpec{DefaultBackend: backend}})
	if ptr.Deref(ingress.Spec.IngressClassName, "") != "front" {
		t.Errorf("class %v, want the standard one", ingress.Spec.IngressClassName)
	}
	old := mustCreate(t, r, resource.Ingresses, "default", &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: "old", Annotations: map[string]string{"kubernetes.io/ingress.class": "other"}}, Spec: networkingv1.IngressSpec{DefaultBackend: backend},
	})
	if old.Spec.IngressClassName != nil {
		t.Errorf("class %v, want what the annotation says to count", *old.Spec.IngressClassName)
	}
}

func TestRuntimeClassSaysOverheadAndNodes(t *testing.T) {
	r := newRegistry(t, Settings{})
	mustCreate(t, r, resource.RuntimeClasses, "", &nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: "vm"}, Handler: "vm", Overhead: &nodev1.Overhead{PodFixed: amounts("memory", "64Mi")},
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"vm": "yes"}, Tolerations: []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}}},
	})
	pod := newPod("web")
	pod.Spec.RuntimeClassName = ptr.To("vm")
	pod, err := create(t, r, "default", pod)
	if err != nil {
		t.Fatal(err)
	}
	if memory := pod.Spec.Overhead["memory"]; memory.String() != "64Mi" || pod.Spec.NodeSelector["vm"] != "yes" || pod.Spec.Tolerations[0].Key != "vm" && pod.Spec.Tolerations[len(pod.Spec.Tolerations)-1].Key != "vm" {
		t.Errorf("pod %+v, want overhead, node selector and toleration", pod.Spec)
	}
	for name, c := range map[string]struct {
		change func(*corev1.PodSpec)
		want   string
	}{
		"unknown":  {func(s *corev1.PodSpec) { s.RuntimeClassName = ptr.To("none") }, `pod rejected: RuntimeClass "none" not found`},
		"overhead": {func(s *corev1.PodSpec) { s.Overhead = amounts("memory", "1Gi") }, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"},
		"nodes": {func(s *corev1.PodSpec) {
			s.RuntimeClassName, s.NodeSelector = ptr.To("vm"), map[string]string{"vm": "no"}
		}, "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no"},
	} {
		pod := newPod(name)
		c.change(&pod.Spec)
		if _, err := create(t, r, "default", pod); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want 403 with %q", name, err, c.want)
		}
	}
}
