package volumebinding_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/controller/storageprotection"
	"github.com/musterhq/muster/control/controller/volumebinding"
	kinds "github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func lead(m *test.Term) {
	m.Run(volumebinding.New(volumebinding.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
}

func claim(name, class string, annotations map[string]string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: annotations},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To(class), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
}

func hostVolume(name string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
		},
	}
}

func localClass(m *test.Term) {
	test.Create(m, kinds.StorageClasses, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: kinds.LocalPathProvisioner,
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer), ReclaimPolicy: ptr.To(corev1.PersistentVolumeReclaimDelete),
	})
	node := test.Node("n1")
	node.Annotations = map[string]string{kinds.LocalVolumesAnnotation: "/var/lib/volumes"}
	test.Create(m, kinds.Nodes, node)
}

// boundTo says what is wrong with a claim and its volume, which should be bound to
// each other by the controller.
func boundTo(m *test.Term, claimName, volumeName string) string {
	c, _ := test.Get[*corev1.PersistentVolumeClaim](m, store.PersistentVolumeClaims, "default", claimName)
	v, _ := test.Get[*corev1.PersistentVolume](m, store.PersistentVolumes, "", volumeName)
	switch {
	case c.Spec.VolumeName != volumeName || c.Status.Phase != corev1.ClaimBound || c.Annotations[volume.AnnBindCompleted] != "yes" || c.Annotations[volume.AnnBoundByController] != "yes":
		return fmt.Sprintf("claim %+v %+v, want it bound to %s", c.ObjectMeta, c.Status, volumeName)
	case v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != c.UID || v.Status.Phase != corev1.VolumeBound || v.Annotations[volume.AnnBoundByController] != "yes":
		return fmt.Sprintf("volume %+v %+v, want it bound to %s", v.Spec.ClaimRef, v.Status, claimName)
	case c.Status.Capacity.Storage().Cmp(*v.Spec.Capacity.Storage()) != 0:
		return fmt.Sprintf("claim has %v, volume %v", c.Status.Capacity, v.Spec.Capacity)
	}
	return ""
}

func TestClaimsAndVolumesFindEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		lead(m)
		test.Create(m, kinds.PersistentVolumeClaims, claim("early", "", nil))
		m.Settled(time.Second)
		test.Create(m, kinds.PersistentVolumes, hostVolume("v1"))
		m.Settled(time.Second)
		if wrong := boundTo(m, "early", "v1"); wrong != "" {
			t.Error(wrong)
		}
		// As many claims as volumes, at once: each gets one.
		for i := range 20 {
			test.Create(m, kinds.PersistentVolumes, hostVolume(fmt.Sprint("w", i)))
			test.Create(m, kinds.PersistentVolumeClaims, claim(fmt.Sprint("c", i), "", nil))
		}
		m.Settled(2 * time.Second)
		for _, c := range test.List[*corev1.PersistentVolumeClaim](m, store.PersistentVolumeClaims) {
			if wrong := boundTo(m, c.Name, c.Spec.VolumeName); wrong != "" {
				t.Error(wrong)
			}
		}
		before := m.Settled(time.Second)
		time.Sleep(time.Hour)
		if after := m.Registry.Store().Revision(); after != before {
			t.Errorf("%d writes though all are bound, want none", after-before)
		}
	})
}

func TestClaimIsLostWithItsVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		lead(m)
		test.Create(m, kinds.PersistentVolumes, hostVolume("v1"))
		test.Create(m, kinds.PersistentVolumeClaims, claim("c", "", nil))
		m.Settled(time.Second)
		m.Delete(kinds.PersistentVolumes, "", "v1")
		m.Settled(time.Second)
		c, _ := test.Get[*corev1.PersistentVolumeClaim](m, store.PersistentVolumeClaims, "default", "c")
		if c.Status.Phase != corev1.ClaimLost || c.Status.Capacity != nil {
			t.Errorf("claim %+v, want it lost", c.Status)
		}
	})
}

func TestLocalVolumeWaitsForItsNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		protection := storageprotection.New(storageprotection.Config{Registry: m.Registry, Caches: m.Caches, Logger: m.Logger})
		binding := volumebinding.New(volumebinding.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger})
		m.Run(protection.Run, binding.Run)
		localClass(m)
		test.Create(m, kinds.PersistentVolumeClaims, claim("c", "local", nil))
		m.Settled(time.Second)
		if all := test.List[*corev1.PersistentVolume](m, store.PersistentVolumes); len(all) > 0 {
			t.Fatalf("%d volumes before a node is selected, want none", len(all))
		}
		c := test.Change(m, kinds.PersistentVolumeClaims, "default", "c", "", func(c *corev1.PersistentVolumeClaim) {
			c.Annotations = map[string]string{volume.AnnSelectedNode: "n1"}
		})
		name := "pvc-" + string(c.UID)
		m.Settled(time.Second)
		if wrong := boundTo(m, "c", name); wrong != "" {
			t.Fatal(wrong)
		}
		v, _ := test.Get[*corev1.PersistentVolume](m, store.PersistentVolumes, "", name)
		if v.Spec.Local.Path != "/var/lib/volumes/"+name || volume.CheckNodeAffinity(v, test.Node("n1").Labels) != nil || volume.CheckNodeAffinity(v, test.Node("n2").Labels) == nil {
			t.Errorf("volume %+v, want it in its node's directory, and nowhere else", v.Spec)
		}
		if _, _, ok := kinds.ReclaimedDirectory(v); ok {
			t.Error("its directory is to be deleted while it is bound")
		}
		m.Delete(kinds.PersistentVolumeClaims, "default", "c")
		m.Settled(time.Second)
		v, there := test.Get[*corev1.PersistentVolume](m, store.PersistentVolumes, "", name)
		if node, path, ok := kinds.ReclaimedDirectory(v); !there || !ok || node != "n1" || path != "/var/lib/volumes/"+name || v.Status.Phase != corev1.VolumeReleased || v.Status.Message == "" {
			t.Fatalf("volume %+v, want it released, and its directory to be deleted", v)
		}
		// The node does not come back: its user says so by deleting it.
		m.Delete(kinds.Nodes, "", "n1")
		m.Settled(time.Second)
		if v, there := test.Get[*corev1.PersistentVolume](m, store.PersistentVolumes, "", name); there {
			t.Errorf("volume %+v of a node that is gone", v)
		}
	})
}

func TestRetainedDirectoryIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		lead(m)
		localClass(m)
		c := test.Create(m, kinds.PersistentVolumeClaims, claim("c", "local", map[string]string{volume.AnnSelectedNode: "n1"}))
		m.Settled(time.Second)
		name := "pvc-" + string(c.UID)
		test.Change(m, kinds.PersistentVolumes, "", name, "", func(v *corev1.PersistentVolume) {
			v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		})
		m.Delete(kinds.PersistentVolumeClaims, "default", "c")
		m.Settled(time.Second)
		v, _ := test.Get[*corev1.PersistentVolume](m, store.PersistentVolumes, "", name)
		if _, _, ok := kinds.ReclaimedDirectory(v); ok || v.Status.Phase != corev1.VolumeReleased {
			t.Fatalf("volume %+v, want it released and kept", v)
		}
		m.Delete(kinds.PersistentVolumes, "", name)
		if v, there := test.Get[*corev1.PersistentVolume](m, store.PersistentVolumes, "", name); there {
			t.Errorf("%+v keeps a volume that was retained from being deleted", v.Finalizers)
		}
	})
}

func TestNextLeaderFinishesBinding(t *testing.T) {
	test.LeaderDiesAtAnyWrite(t, 9, func(_ *testing.T, user *test.Term) {
		localClass(user)
		test.Create(user, kinds.PersistentVolumes, hostVolume("v1"))
		test.Create(user, kinds.PersistentVolumeClaims, claim("static", "", nil))
		test.Create(user, kinds.PersistentVolumeClaims, claim("local", "local", map[string]string{volume.AnnSelectedNode: "n1"}))
	}, lead, func(t *testing.T, m *test.Term) {
		local, _ := test.Get[*corev1.PersistentVolumeClaim](m, store.PersistentVolumeClaims, "default", "local")
		for c, v := range map[string]string{"static": "v1", "local": "pvc-" + string(local.UID)} {
			if wrong := boundTo(m, c, v); wrong != "" {
				t.Error(wrong)
			}
		}
		if all := test.List[*corev1.PersistentVolume](m, store.PersistentVolumes); len(all) != 2 {
			t.Errorf("%d volumes, want 2", len(all))
		}
	})
}
