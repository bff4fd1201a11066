package ephemeralvolume_test

import (
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/controller/ephemeralvolume"
	kinds "github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func spec() corev1.PersistentVolumeClaimSpec {
	return corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}
}

func podWithScratch() *corev1.Pod {
	pod := test.Pod("web")
	pod.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
		VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: spec()},
	}}}}
	return pod
}

func lead(m *test.Term) {
	m.Run(ephemeralvolume.New(ephemeralvolume.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
}

func wantClaim(t *testing.T, m *test.Term) {
	t.Helper()
	pod, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "web")
	claim, ok := test.Get[*corev1.PersistentVolumeClaim](m, store.PersistentVolumeClaims, "default", "web-scratch")
	if !ok || ephemeral.VolumeIsForPod(pod, claim) != nil || claim.Labels["app"] != "web" {
		t.Errorf("claim %+v, %t, want one of the pod's", claim, ok)
	}
}

func TestPodGetsItsClaim(t *testing.T) {
	test.LeaderDiesAtAnyWrite(t, 2, func(_ *testing.T, user *test.Term) {
		test.Create(user, kinds.Pods, podWithScratch())
	}, lead, func(t *testing.T, m *test.Term) {
		wantClaim(t, m)
		m.Delete(kinds.PersistentVolumeClaims, "default", "web-scratch")
		m.Settled(time.Second)
		wantClaim(t, m)
	})
}

func TestClaimOfAnotherIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		lead(m)
		test.Create(m, kinds.PersistentVolumeClaims, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-scratch"}, Spec: spec()})
		test.Create(m, kinds.Pods, podWithScratch())
		test.Eventually(t, func() string {
			for _, e := range test.List[*corev1.Event](m, store.Events) {
				if e.Reason == "FailedBinding" && e.InvolvedObject.Name == "web" {
					return ""
				}
			}
			return "nobody was told"
		})
	})
}
