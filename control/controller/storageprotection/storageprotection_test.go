package storageprotection_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/controller/storageprotection"
	kinds "github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestClaimStaysAsLongAsAPodUsesIt(t *testing.T) {
	term := controllertest.Begin(t, storetest.New(t))
	term.Run(storageprotection.New(storageprotection.Config{Registry: term.Registry, Caches: term.Caches, Logger: term.Logger}).Run)
	for _, name := range []string{"used", "unused"} {
		controllertest.Create(term, kinds.PersistentVolumeClaims, &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Finalizers: []string{kinds.ClaimProtection}},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}},
			},
		})
	}
	pod := controllertest.Pod("web")
	pod.Spec.NodeName = "n1"
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "used"}}}}
	controllertest.Create(term, kinds.Pods, pod)
	term.Settled(50 * time.Millisecond)
	exists := func(name string) bool {
		_, ok := controllertest.Get[*corev1.PersistentVolumeClaim](term, store.PersistentVolumeClaims, "default", name)
		return ok
	}
	for _, name := range []string{"used", "unused"} {
		term.Delete(kinds.PersistentVolumeClaims, "default", name)
	}
	gone := func(name string) func() string {
		return func() string {
			if exists(name) {
				return "claim " + name + " is still there"
			}
			return ""
		}
	}
	controllertest.Eventually(t, gone("unused"))
	term.Settled(100 * time.Millisecond)
	if !exists("used") {
		t.Fatal("the claim that a pod uses is gone")
	}
	controllertest.Change(term, kinds.Pods, "default", "web", "status", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	controllertest.Eventually(t, gone("used"))
}
