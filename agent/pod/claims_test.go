package pod

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/agent/volume"
)

// claims are Contents that know of claims alone.
type claims struct {
	Contents
	claim *corev1.PersistentVolumeClaim
	bound *volume.Claimed
	err   error
}

func (c *claims) Claim(string, string) (*corev1.PersistentVolumeClaim, *volume.Claimed, error) {
	return c.claim, c.bound, c.err
}

func TestPodWaitsForItsClaimAndSaysSo(t *testing.T) {
	pod := newPod("web")
	claim := func(change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-v"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "v"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
		for _, f := range change {
			f(c)
		}
		return c
	}
	mine := func(c *corev1.PersistentVolumeClaim) {
		c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: ptr.To(true)}}
	}
	named := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}
	made := corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}
	bound := &volume.Claimed{Volume: &corev1.PersistentVolume{}}
	for _, test := range []struct {
		of   corev1.VolumeSource
		told claims
		want string // "" for the volume
	}{
		{named, claims{claim: claim(), bound: bound}, ""},
		{named, claims{err: ErrNotTold}, "error processing PVC default/c: failed to fetch PVC from API server: not told by the control plane yet"},
		{named, claims{}, `error processing PVC default/c: failed to fetch PVC from API server: persistentvolumeclaims "c" not found`},
		{named, claims{claim: claim(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimPending })}, "error processing PVC default/c: PVC is not bound"},
		{named, claims{claim: claim(func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = ptr.To(metav1.Now()) }), bound: bound}, "error processing PVC default/c: PVC is being deleted"},
		{named, claims{claim: claim()}, "error processing PVC default/c: failed to fetch PV v from API server: it is not there, or not this claim's"},
		{made, claims{claim: claim(mine), bound: bound}, ""},
		{made, claims{claim: claim(), bound: bound}, `error processing PVC default/web-v: PVC default/web-v was not created for pod default/web (pod is not owner)`},
	} {
		w := &worker{m: &Manager{cfg: Config{Contents: &test.told}}}
		got, err := w.claimed(pod, &corev1.Volume{Name: "v", VolumeSource: test.of})
		if said := ""; err != nil || test.want != "" {
			if err != nil {
				said = err.Error()
			}
			if said != test.want {
				t.Errorf("says %q, want %q", said, test.want)
			}
		} else if got != bound {
			t.Errorf("got %v, want the volume", got)
		}
	}
}
