package scheduler_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/controller/volumebinding"
	kinds "github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/scheduler"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// leadVolumes runs the scheduler beside the binder of volumes.
func leadVolumes(m *test.Term) {
	m.Run(
		scheduler.New(scheduler.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
		volumebinding.New(volumebinding.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
	)
}

func volumeNode(name string) *corev1.Node {
	n := test.Node(name)
	n.Annotations = map[string]string{kinds.LocalVolumesAnnotation: "/volumes"}
	return n
}

func claim(name, class string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To(class), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
}

func podOf(name string, claims ...string) *corev1.Pod {
	p := test.Pod(name)
	for _, c := range claims {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: c, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c}}})
	}
	return p
}

func staticVolume(name, host string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			StorageClassName: "static", Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/disk"}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
			}}}},
		},
	}
}

func staticClass() *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "static"}, Provisioner: volume.NotSupportedProvisioner,
		ReclaimPolicy: ptr.To(corev1.PersistentVolumeReclaimDelete), VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
}

// onItsVolumes says what is wrong with a pod that should be on the node of its
// claims' volumes.
func onItsVolumes(m *test.Term, name string) string {
	p, _ := test.Get[*corev1.Pod](m, store.Pods, "default", name)
	if p.Spec.NodeName == "" {
		return fmt.Sprintf("%s is on no node: %+v", name, condition(p))
	}
	node, _ := test.Get[*corev1.Node](m, store.Nodes, "", p.Spec.NodeName)
	for _, v := range p.Spec.Volumes {
		c, _ := test.Get[*corev1.PersistentVolumeClaim](m, store.PersistentVolumeClaims, "default", v.PersistentVolumeClaim.ClaimName)
		pv, ok := test.Get[*corev1.PersistentVolume](m, store.PersistentVolumes, "", c.Spec.VolumeName)
		if !ok || c.Status.Phase != corev1.ClaimBound || volume.CheckNodeAffinity(pv, node.Labels) != nil {
			return fmt.Sprintf("%s is on %s, its claim %+v", name, node.Name, c)
		}
	}
	return ""
}

func TestPodsGetVolumesAndThenTheirNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		leadVolumes(m)
		for i := range 3 {
			test.Create(m, kinds.Nodes, volumeNode(fmt.Sprint("n", i)))
		}
		test.Create(m, kinds.StorageClasses, staticClass())
		test.Create(m, kinds.PersistentVolumes, staticVolume("disk", "n2"))
		// A claim that comes after its pod, and one of each kind.
		test.Create(m, kinds.Pods, podOf("early", "a"))
		m.Settled(time.Second)
		early, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "early")
		if c := condition(early); c == nil || c.Message != `0/3 nodes are available: persistentvolumeclaim "a" not found. `+
			"preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling." {
			t.Errorf("it is told %+v", c)
		}
		for _, c := range []*corev1.PersistentVolumeClaim{claim("a", "local-path"), claim("b", "local-path"), claim("s", "static")} {
			test.Create(m, kinds.PersistentVolumeClaims, c)
		}
		test.Create(m, kinds.Pods, podOf("both", "b", "s"))
		m.Settled(time.Second)
		for _, name := range []string{"early", "both"} {
			if wrong := onItsVolumes(m, name); wrong != "" {
				t.Error(wrong)
			}
		}
		// A pod that comes back goes where its data is, though other nodes have less to do.
		was, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "early")
		m.Delete(kinds.Pods, "default", "early", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)})
		for i := range 10 {
			p := test.Pod(fmt.Sprint("other", i))
			p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: was.Spec.NodeName}
			test.Create(m, kinds.Pods, p)
		}
		test.Create(m, kinds.Pods, podOf("early", "a"))
		m.Settled(time.Second)
		if is, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "early"); is.Spec.NodeName != was.Spec.NodeName {
			t.Errorf("it came back on %q, its data is on %s", is.Spec.NodeName, was.Spec.NodeName)
		}
	})
}

// One disk and two who want it: the second waits until there is another.
func TestPodsWaitForVolumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		leadVolumes(m)
		test.Create(m, kinds.Nodes, volumeNode("n1"))
		test.Create(m, kinds.StorageClasses, staticClass())
		test.Create(m, kinds.PersistentVolumes, staticVolume("disk1", "n1"))
		for _, name := range []string{"a", "b"} {
			test.Create(m, kinds.PersistentVolumeClaims, claim(name, "static"))
			test.Create(m, kinds.Pods, podOf(name, name))
		}
		m.Settled(time.Second)
		wantBound(t, m, 1)
		before := m.Settled(time.Second)
		time.Sleep(time.Hour)
		if after := m.Registry.Store().Revision(); after != before {
			t.Errorf("%d writes while a pod waits for a volume, want none", after-before)
		}
		test.Create(m, kinds.PersistentVolumes, staticVolume("disk2", "n1"))
		wantBound(t, m, 2)
		for _, name := range []string{"a", "b"} {
			if wrong := onItsVolumes(m, name); wrong != "" {
				t.Error(wrong)
			}
		}
	})
}

func TestNextLeaderBindsVolumesAndPods(t *testing.T) {
	test.LeaderDiesAtAnyWrite(t, 12, func(_ *testing.T, user *test.Term) {
		test.Create(user, kinds.Nodes, volumeNode("n1"))
		test.Create(user, kinds.Nodes, volumeNode("n2"))
		test.Create(user, kinds.StorageClasses, staticClass())
		test.Create(user, kinds.PersistentVolumes, staticVolume("disk", "n2"))
		test.Create(user, kinds.PersistentVolumeClaims, claim("a", "local-path"))
		test.Create(user, kinds.PersistentVolumeClaims, claim("s", "static"))
		test.Create(user, kinds.Pods, podOf("web", "a", "s"))
	}, leadVolumes, func(t *testing.T, m *test.Term) {
		if wrong := onItsVolumes(m, "web"); wrong != "" {
			t.Error(wrong)
		}
		if all := test.List[*corev1.PersistentVolume](m, store.PersistentVolumes); len(all) != 2 {
			t.Errorf("%d volumes, want 2", len(all))
		}
	})
}
