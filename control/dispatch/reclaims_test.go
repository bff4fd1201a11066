package dispatch

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// change updates an object as a controller would.
func change[T store.Object](n *controlNode, kind *resource.Kind, ns, name, subresource string, apply func(T)) T {
	n.t.Helper()
	changed, _, err := n.registry.Update(n.t.Context(), kind, ns, name, subresource, func(current store.Object) (store.Object, error) {
		apply(current.(T))
		return current, nil
	}, resource.UpdateOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return changed.(T)
}

// directory makes a claim and, unbound, the volume that is a directory of n1.
func (n *controlNode) directory() (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
	n.t.Helper()
	one := corev1.ResourceList{corev1.ResourceStorage: quantity.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	claim, err := n.registry.Create(n.t.Context(), resource.PersistentVolumeClaims, "default", &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes, StorageClassName: ptr.To("local-path"), Resources: corev1.VolumeResourceRequirements{Requests: one},
		},
	}, resource.CreateOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	v, err := n.registry.Create(n.t.Context(), resource.PersistentVolumes, "", &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: "v", Finalizers: []string{resource.DirectoryProtection},
			Annotations: map[string]string{volume.AnnDynamicallyProvisioned: resource.LocalPathProvisioner, resource.VolumeNodeAnnotation: "n1"},
		},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: modes, Capacity: one, StorageClassName: "local-path", PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			ClaimRef:               &corev1.ObjectReference{Namespace: "default", Name: "data", UID: claim.GetUID()},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/volumes/v"}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"n1"}}},
			}}}},
		},
	}, resource.CreateOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return claim.(*corev1.PersistentVolumeClaim), v.(*corev1.PersistentVolume)
}

func TestAgentsAreToldWhatTheirPodsClaim(t *testing.T) {
	n := newControlNodes(t, "c1")[0]
	n.directory()
	pod := n.mountingSources("web")
	if _, err := store.Of[*corev1.Pod](n.store, store.Pods).Delete(t.Context(), "default", pod.Name, 0, ""); err != nil {
		t.Fatal(err)
	}
	pod.Spec.Containers[0].EnvFrom = nil
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	if _, err := store.Of[*corev1.Pod](n.store, store.Pods).Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	agent := n.connect("n1")
	agent.keepBeating()
	n.givePodCIDR("n1")
	if agent.hear().GetWelcome() == nil {
		t.Fatal("no welcome")
	}
	claim := agent.hear().GetContent()
	if claim.GetKind() != agentv1.Content_CLAIM || claim.Name != "data" || len(claim.Object) == 0 || len(claim.Volume) != 0 {
		t.Fatalf("heard %v, want a claim without a volume", claim)
	}
	if agent.hear().GetPodPut() == nil || agent.hear().GetSynced() == nil {
		t.Fatal("no pod")
	}
	change(n, resource.PersistentVolumeClaims, "default", "data", "", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "v" })
	change(n, resource.PersistentVolumeClaims, "default", "data", "status", func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimBound })
	for claim = agent.hear().GetContent(); claim != nil && len(claim.Volume) == 0; {
		claim = agent.hear().GetContent()
	}
	var v corev1.PersistentVolume
	if err := v.Unmarshal(claim.GetVolume()); err != nil || v.Name != "v" || !claim.Directory {
		t.Errorf("heard volume %q, directory %t, %v, want v, which is one", v.Name, claim.GetDirectory(), err)
	}
}

func TestDirectoriesOfReleasedVolumesAreReclaimed(t *testing.T) {
	n := newControlNodes(t, "c1")[0]
	_, v := n.directory()
	agent := n.connect("n1")
	agent.keepBeating()
	n.givePodCIDR("n1")
	agent.hearUntilSynced()
	node, err := store.Of[*corev1.Node](n.store, store.Nodes).Get(t.Context(), "", "n1")
	if err != nil || node.Annotations[resource.LocalVolumesAnnotation] != "/volumes" {
		t.Errorf("node's annotations %v, %v, want them to say where its volumes are", node.Annotations, err)
	}
	reclaimed := func(a *testAgent, uid, failure string) {
		a.say(&agentv1.FromAgent{Message: &agentv1.FromAgent_VolumeReclaimed{VolumeReclaimed: &agentv1.VolumeReclaimed{Name: "v", Uid: uid, Error: failure}}})
	}
	get := func() (*corev1.PersistentVolume, error) {
		return store.Of[*corev1.PersistentVolume](n.store, store.PersistentVolumes).Get(t.Context(), "", "v")
	}
	stays := func(node, uid string) {
		t.Helper()
		if err := n.storeReclaimed(t.Context(), node, &agentv1.VolumeReclaimed{Name: "v", Uid: uid}); err != nil {
			t.Fatal(err)
		}
		if _, err := get(); err != nil {
			t.Errorf("removed by %s's word of %s", node, uid)
		}
	}
	stays("n1", string(v.UID)) // it has its claim
	change(n, resource.PersistentVolumes, "", "v", "status", func(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumeReleased })
	asked := agent.hear().GetReclaimVolume()
	if asked.GetName() != "v" || asked.Uid != string(v.UID) || asked.Path != "/volumes/v" {
		t.Fatalf("asked for %v, want v", asked)
	}
	reclaimed(agent, string(v.UID), "busy")
	eventually(t, func() bool {
		v, err := get()
		return err == nil && v.Status.Phase == corev1.VolumeFailed && v.Status.Message == `node "n1" could not delete the directory: busy`
	})
	stays("n2", string(v.UID)) // it is not on that node
	stays("n1", "another")
	// An agent that starts anew is asked again.
	agent = n.connect("n1")
	agent.keepBeating()
	for asked = nil; asked == nil; {
		asked = agent.hear().GetReclaimVolume()
	}
	reclaimed(agent, asked.Uid, "")
	eventually(t, func() bool {
		_, err := get()
		return errors.Is(err, store.ErrNotFound)
	})
}
