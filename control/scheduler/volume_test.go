package scheduler

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

func makeClass(name, provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

func makeClaim(name, class, size string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("claim-" + name)},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To(class), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, f := range change {
		f(c)
	}
	return c
}

func makeVolume(name, class, size, host string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	if host != "" {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
		}}}}
	}
	for _, f := range change {
		f(v)
	}
	return v
}

// boundTo makes a claim and a volume each other's.
func boundTo(c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
	c, v = c.DeepCopy(), v.DeepCopy()
	c.Spec.VolumeName, c.Status.Phase = v.Name, corev1.ClaimBound
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, volume.AnnBindCompleted, "yes")
	v.Spec.ClaimRef, v.Status.Phase = &corev1.ObjectReference{Namespace: c.Namespace, Name: c.Name, UID: c.UID}, corev1.VolumeBound
	return c, v
}

func claiming(names ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, name := range names {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}})
		}
	}
}

func (c *core) tell(objects ...any) {
	for _, obj := range objects {
		switch o := obj.(type) {
		case *corev1.Node:
			c.setNode(o)
		case *corev1.PersistentVolumeClaim:
			c.setClaim(claimKey(o), o)
		case *corev1.PersistentVolume:
			c.setVolume(o.Name, o)
		case *storagev1.StorageClass:
			c.setClass(o.Name, o)
		case *storagev1.CSINode:
			c.setCSINode(o.Name, o)
		case *storagev1.CSIDriver:
			c.setDriver(o.Name, o)
		case *storagev1.CSIStorageCapacity:
			c.setRoom(o.Namespace+"/"+o.Name, o)
		case *storagev1.VolumeAttachment:
			c.setAttachment(o.Name, o)
		case *corev1.Pod:
			c.setPod(o)
		}
	}
}

func TestPodsGoWhereTheirVolumesAre(t *testing.T) {
	const waits, immediate = storagev1.VolumeBindingWaitForFirstConsumer, storagev1.VolumeBindingImmediate
	oncePod := func(c *corev1.PersistentVolumeClaim) {
		c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	}
	bound := func(c *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) []any {
		c, v = boundTo(c, v)
		return []any{c, v}
	}
	csi := func(v *corev1.PersistentVolume) {
		v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: "example.org/disks", VolumeHandle: v.Name}
	}
	limited := func(node string, n int32) *storagev1.CSINode {
		return &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{
			Name: "example.org/disks", Allocatable: &storagev1.VolumeNodeResources{Count: &n}}}}}
	}
	disk := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "d", VolumeSource: corev1.VolumeSource{GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{PDName: "d"}}}}
	}
	for _, test := range []struct {
		name  string
		given []any
		node  string // "" for nowhere
		why   string
	}{
		{"its volume's node", bound(makeClaim("c", "", "1Gi"), makeVolume("v", "", "1Gi", "n2")), "n2", ""},
		{"no node has its volume", bound(makeClaim("c", "", "1Gi"), makeVolume("v", "", "1Gi", "n9")), "", "3 node(s) didn't match PersistentVolume's node affinity"},
		{"its volume is gone", bound(makeClaim("c", "", "1Gi"), makeVolume("v", "", "1Gi", "n2"))[:1], "", `persistentvolume "v" not found`},
		{"no such claim", nil, "", `persistentvolumeclaim "c" not found`},
		{"a claim that is being deleted", []any{makeClaim("c", "", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = ptr.To(metav1.Now()) })}, "", `persistentvolumeclaim "c" is being deleted`},
		{"not bound, and not the scheduler's to bind", []any{makeClaim("c", "i", "1Gi"), makeClass("i", "example.org/disks", immediate)}, "", "pod has unbound immediate PersistentVolumeClaims"},
		{"where a volume is", []any{makeClaim("c", "s", "1Gi"), makeClass("s", volume.NotSupportedProvisioner, waits), makeVolume("v", "s", "1Gi", "n3")}, "n3", ""},
		{"no volume is large enough", []any{makeClaim("c", "s", "2Gi"), makeClass("s", volume.NotSupportedProvisioner, waits), makeVolume("v", "s", "1Gi", "n3")}, "", "3 node(s) didn't find available persistent volumes to bind"},
		{"where one is being made", []any{makeClaim("c", "w", "1Gi", func(c *corev1.PersistentVolumeClaim) {
			c.Annotations = map[string]string{volume.AnnSelectedNode: "n2"}
		}), makeClass("w", "example.org/disks", waits)}, "n2", ""},
		{"where one can be made", []any{makeClaim("c", "w", "1Gi"), func() *storagev1.StorageClass {
			class := makeClass("w", "example.org/disks", waits)
			class.AllowedTopologies = []corev1.TopologySelectorTerm{{MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: corev1.LabelHostname, Values: []string{"n3"}}}}}
			return class
		}()}, "n3", ""},
		{"another has the claim", append(bound(makeClaim("c", "", "1Gi", oncePod), makeVolume("v", "", "1Gi", "")), makePod("other", claiming("c"), on("n1"))), "", "3 " + reasonInUse},
		{"its volume's zone", append(bound(makeClaim("c", "", "1Gi"), makeVolume("v", "", "1Gi", "", func(v *corev1.PersistentVolume) {
			v.Labels = map[string]string{corev1.LabelTopologyZone: "a__c"}
		})), makeNode("n1", labelled(corev1.LabelTopologyZone, "b")), makeNode("n2", labelled(corev1.LabelTopologyZone, "c")), makeNode("n3", labelled(corev1.LabelTopologyZone, "b"))), "n2", ""},
		{"where a driver has room", slices.Concat(bound(makeClaim("c", "", "1Gi"), makeVolume("v", "", "1Gi", "", csi)), bound(makeClaim("d", "", "1Gi"), makeVolume("w", "", "1Gi", "", csi)),
			[]any{limited("n1", 1), limited("n2", 1), limited("n3", 0), makePod("other", claiming("d"), on("n1"))}), "n2", ""},
		{"a driver has no room", slices.Concat(bound(makeClaim("c", "", "1Gi"), makeVolume("v", "", "1Gi", "", csi)),
			[]any{limited("n1", 0), limited("n2", 0), limited("n3", 0)}), "", "3 node(s) exceed max volume count"},
		{"two reasons at once", append(bound(makeClaim("d", "", "1Gi"), makeVolume("v", "", "1Gi", "n9")), makeClaim("c", "s", "1Gi"),
			makeClass("s", volume.NotSupportedProvisioner, waits), makePod("p", claiming("c", "d"))), "",
			"3 node(s) didn't find available persistent volumes to bind, 3 node(s) didn't match PersistentVolume's node affinity"},
		{"a volume that is meant for it and of another class is not seen", []any{makeClaim("c", "s", "1Gi"), makeClass("s", volume.NotSupportedProvisioner, waits), makeVolume("v", "t", "1Gi", "n2", func(v *corev1.PersistentVolume) {
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "c"}
		})}, "", "3 node(s) didn't find available persistent volumes to bind"},
		{"names of nodes that its volume asks for do not count", bound(makeClaim("c", "", "1Gi"), makeVolume("v", "", "1Gi", "n2", func(v *corev1.PersistentVolume) {
			v.Spec.NodeAffinity.Required.NodeSelectorTerms = []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
				{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n2"}}}}}
		})), "n1", ""},
		{"an ephemeral volume of the name has no claim alone", append(bound(makeClaim("other-c", "", "1Gi", oncePod), makeVolume("v", "", "1Gi", "n2")), makePod("p", claiming("other-c")),
			makePod("other", on("n1"), func(p *corev1.Pod) {
				p.Spec.Volumes = []corev1.Volume{{Name: "c", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
			})), "n2", ""},
		{"a zone that is none", append(bound(makeClaim("c", "", "1Gi"), makeVolume("v", "", "1Gi", "n1", func(v *corev1.PersistentVolume) {
			v.Labels = map[string]string{corev1.LabelTopologyZone: "a____c"}
		})), makeNode("n1", labelled(corev1.LabelTopologyZone, "b"))), "n1", ""},
		{"the zone of an ephemeral volume", append(bound(makeClaim("p-c", "", "1Gi", func(c *corev1.PersistentVolumeClaim) {
			c.OwnerReferences = []metav1.OwnerReference{{Name: "p", UID: "pod-p", Controller: ptr.To(true)}}
		}), makeVolume("v", "", "1Gi", "n1", func(v *corev1.PersistentVolume) {
			v.Labels = map[string]string{corev1.LabelTopologyZone: "a"}
		})), makeNode("n1", labelled(corev1.LabelTopologyZone, "b")), makePod("p", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "c", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
		})), "n1", ""},
		{"where its disk is not", []any{makePod("other", disk, on("n1")), makePod("p", disk), makeClaim("c", "", "1Gi"), makeNode("n2", func(n *corev1.Node) { n.Spec.Unschedulable = true }),
			makeNode("n3", func(n *corev1.Node) { n.Spec.Unschedulable = true })}, "", "1 node(s) had no available disk, 2 node(s) were unschedulable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCore(100)
			for _, name := range []string{"n1", "n2", "n3"} {
				c.setNode(makeNode(name))
			}
			c.tell(test.given...)
			if c.queue.entries["pod-p"] == nil {
				c.setPod(makePod("p", claiming("c")))
			}
			d, ok := c.next()
			if !ok || d.node != test.node {
				t.Fatalf("goes to %q, want %q", d.node, test.node)
			}
			if want := "0/3 nodes are available: " + test.why + "."; d.diagnosis != nil && d.diagnosis.Error() != want {
				t.Errorf("because\n%s\nwant\n%s", d.diagnosis.Error(), want)
			}
		})
	}
}

// A pod that its volume's zone kept away hears of it when that changes.
func TestZoneOfVolumeWakes(t *testing.T) {
	c := newCore(1)
	claim, v := boundTo(makeClaim("c", "", "1Gi"), makeVolume("v", "", "1Gi", ""))
	v.Labels = map[string]string{corev1.LabelTopologyZone: "b"}
	c.tell(makeNode("n1", labelled(corev1.LabelTopologyZone, "a")), claim, v, makePod("p", claiming("c")))
	if d, _ := c.next(); d.node != "" {
		t.Fatalf("goes to %s, want nowhere", d.node)
	}
	v = v.DeepCopy()
	v.Labels[corev1.LabelTopologyZone] = "a"
	c.tell(v)
	if d, _ := c.next(); d.node != "n1" {
		t.Errorf("goes to %q, want n1", d.node)
	}
}

// Nobody is evicted for a pod that its claims keep from every node.
func TestClaimsAreNotPreemptedFor(t *testing.T) {
	c := newCore(1)
	c.tell(makeNode("n1", allocatable("cpu", "1", "memory", "1Gi", "pods", "5")), makePod("low", on("n1"), requesting("cpu", "1")),
		makePod("p", claiming("c"), requesting("cpu", "1"), priority(10)))
	d, _ := c.next()
	want := "0/1 nodes are available: 1 " + notHelpful + "."
	if d.preemption != nil || d.why != want {
		t.Errorf("evicts %v because %q, want nobody because %q", d.preemption, d.why, want)
	}
}

// What a claim is given on a node is what upstream's own function finds for it.
func TestMatchesAsUpstream(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	for range 3000 {
		c := newCore(1)
		c.setNode(makeNode("n1"))
		claim := makeClaim("c", pick("s", "t"), pick("1Gi", "2Gi", "3Gi"))
		if r.IntN(3) == 0 {
			claim.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": pick("ssd", "tape")}}
		}
		var all []*corev1.PersistentVolume
		meant := false
		for i := range r.IntN(6) {
			v := makeVolume(fmt.Sprint("v", i), pick("s", "t"), pick("1Gi", "2Gi", "3Gi"), pick("", "n1", "n2"))
			v.Labels = map[string]string{"disk": pick("ssd", "tape")}
			switch r.IntN(8) {
			case 0:
				v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock)
			case 1:
				v.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
			case 2:
				v.Status.Phase = corev1.VolumeReleased
			case 3:
				if !meant {
					v.Spec.ClaimRef, meant = &corev1.ObjectReference{Namespace: "default", Name: "c"}, true
				}
			case 4:
				v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: "other"}
			}
			all = append(all, v)
			c.setVolume(v.Name, v)
		}
		c.tell(claim, makeClass("s", volume.NotSupportedProvisioner, storagev1.VolumeBindingWaitForFirstConsumer), makeClass("t", volume.NotSupportedProvisioner, storagev1.VolumeBindingWaitForFirstConsumer))
		// The scheduler looks among the volumes of the claim's class only.
		all = slices.DeleteFunc(all, func(v *corev1.PersistentVolume) bool { return v.Spec.StorageClassName != *claim.Spec.StorageClassName })
		slices.SortFunc(all, func(a, b *corev1.PersistentVolume) int {
			if d := a.Spec.Capacity.Storage().Cmp(*b.Spec.Capacity.Storage()); d != 0 {
				return d
			}
			return strings.Compare(a.Name, b.Name)
		})
		n := c.cluster.nodes["n1"]
		found, err := volume.FindMatchingVolume(claim, all, n.node, nil, true, true)
		if err != nil {
			t.Fatal(err)
		}
		want := ""
		if found != nil {
			want = found.Name
		}
		vs := c.cluster.volumes
		need := vs.needs(newPodInfo(makePod("p", claiming("c")), usual))
		if got := vs.match(&need.unbound[0], n, nil); got != want {
			t.Fatalf("got %q, want %q of %v for %v", got, want, all, claim)
		}
	}
}

// storedWorld is what is stored, with a binder of volumes and writers that may fail.
type storedWorld struct {
	*core
	r        *rand.Rand
	claims   map[string]*corev1.PersistentVolumeClaim
	volumes  map[string]*corev1.PersistentVolume
	pods     map[string]*corev1.Pod
	deciding []decision
	now      time.Time
}

// write carries out a decision about volumes, and bind one about a pod.
func (w *storedWorld) write(d decision) {
	if w.r.IntN(5) == 0 {
		w.volumesFailed(d, w.now)
		return
	}
	for key, c := range d.volumes {
		claim := w.claims[key]
		if claim == nil {
			w.volumesFailed(d, w.now)
			return
		}
		if c.volume == "" {
			if claim.Spec.VolumeName != "" {
				continue
			}
			claim = claim.DeepCopy()
			metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnSelectedNode, c.node)
			w.set(claim)
			continue
		}
		v := w.volumes[c.volume]
		if v == nil || v.Spec.ClaimRef != nil && v.Spec.ClaimRef.Name != claim.Name {
			w.volumesFailed(d, w.now)
			return
		}
		v = v.DeepCopy()
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID}
		w.set(v)
	}
	w.chosen(d)
}

func (w *storedWorld) set(objects ...any) {
	for _, obj := range objects {
		switch o := obj.(type) {
		case *corev1.PersistentVolumeClaim:
			w.claims[claimKey(o)] = o
		case *corev1.PersistentVolume:
			w.volumes[o.Name] = o
		case *corev1.Pod:
			w.pods[o.Name] = o
		}
		w.tell(obj)
	}
}

// binder does what package volumebinding does.
func (w *storedWorld) binder() {
	for _, claim := range w.claims {
		if claim.Spec.VolumeName != "" {
			continue
		}
		for _, v := range w.volumes {
			if ref := v.Spec.ClaimRef; ref != nil && ref.UID == claim.UID {
				c, v := boundTo(claim, v)
				w.set(v, c)
				break
			}
		}
		if node := claim.Annotations[volume.AnnSelectedNode]; node != "" && *claim.Spec.StorageClassName == "w" && w.claims[claimKey(claim)] == claim {
			c, v := boundTo(claim, makeVolume("pvc-"+claim.Name, "w", "1Gi", node))
			if w.r.IntN(4) > 0 { // else it is none of a driver's
				v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: disks, VolumeHandle: v.Name}
			}
			w.set(v, c)
		}
	}
}

// step has the core decide until it has nothing to offer, and checks that it is right.
func (w *storedWorld) step(t *testing.T) {
	t.Helper()
	w.checkVolumes(w.now)
	w.deciding = append(w.deciding, w.takeDue()...)
	w.now = w.now.Add(time.Minute)
	w.queue.due(w.now)
	for {
		d, ok := w.next()
		if !ok {
			break
		}
		if d.diagnosis == nil && len(d.volumes) == 0 {
			w.deciding = append(w.deciding, d)
		}
	}
	for e := range w.queue.parked.all() {
		for _, n := range w.cluster.order {
			if w.cluster.fits(e.podInfo, n) {
				t.Fatalf("%s is parked and fits on %s", e.pod.Name, n.name)
			}
		}
	}
	reserved := map[string]string{}
	for key, c := range w.cluster.volumes.choices {
		if c.volume == "" {
			continue
		}
		if other := reserved[c.volume]; other != "" {
			t.Fatalf("volume %s is for %s and %s", c.volume, other, key)
		}
		reserved[c.volume] = key
	}
}

// Claims, volumes, nodes and pods come and go, writes fail: no pod waits that
// could go, and none is bound before its volumes are, nor away from them.
func TestVolumesInRandomHistories(t *testing.T) {
	for seed := range uint64(200) {
		w := &storedWorld{
			core: newCore(2), r: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1e9, 0),
			claims: map[string]*corev1.PersistentVolumeClaim{}, volumes: map[string]*corev1.PersistentVolume{}, pods: map[string]*corev1.Pod{},
		}
		r := w.r
		pick := func(of ...string) string { return of[r.IntN(len(of))] }
		w.tell(makeClass("w", "example.org/disks", storagev1.VolumeBindingWaitForFirstConsumer), makeClass("s", volume.NotSupportedProvisioner, storagev1.VolumeBindingWaitForFirstConsumer))
		pending := func() (all []decision) {
			for _, uid := range slices.Sorted(maps.Keys(w.claimants.binding)) {
				if b := w.claimants.binding[uid]; !b.written {
					all = append(all, b.decision)
				}
			}
			return all
		}
		carryOut := func() {
			for _, d := range pending() {
				w.write(d)
			}
			w.binder()
			for _, d := range w.deciding {
				if w.cluster.pods[d.entry.pod.UID] == nil || w.pods[d.entry.pod.Name] == nil || w.pods[d.entry.pod.Name].UID != d.entry.pod.UID {
					continue
				}
				pod := w.pods[d.entry.pod.Name].DeepCopy()
				pod.Spec.NodeName = d.node
				for _, use := range claimsOf(pod) {
					claim := w.claims[use.key]
					if claim == nil {
						continue // deleted since
					}
					v := w.volumes[claim.Spec.VolumeName]
					if v == nil || v.Spec.ClaimRef.UID != claim.UID {
						t.Fatalf("seed %d: %s is bound before claim %s", seed, pod.Name, claim.Name)
					}
					if n := w.cluster.nodes[d.node]; n != nil && n.node != nil && volume.CheckNodeAffinity(v, n.node.Labels) != nil {
						t.Fatalf("seed %d: %s is on %s, its volume is not", seed, pod.Name, d.node)
					}
				}
				w.set(pod)
			}
			w.deciding = nil
		}
		for step := range 80 {
			name := fmt.Sprint(r.IntN(8))
			node := "n" + fmt.Sprint(r.IntN(3))
			switch r.IntN(13) {
			case 0:
				w.tell(makeNode(node, allocatable("cpu", "4", "memory", "8Gi", "pods", "2")))
			case 1:
				if r.IntN(4) == 0 {
					w.removeNode(node)
				}
			case 2, 3:
				if w.pods[name] == nil {
					p := makePod(name, claiming(fmt.Sprint(r.IntN(8))))
					p.UID = types.UID(fmt.Sprint(name, "-", step))
					if r.IntN(3) == 0 {
						claiming(fmt.Sprint(8 + r.IntN(3)))(p)
					}
					w.set(p)
				}
			case 4, 5:
				name = fmt.Sprint(r.IntN(11))
				if w.claims["default/"+name] == nil {
					c := makeClaim(name, pick("s", "w"), pick("1Gi", "2Gi"))
					if r.IntN(3) == 0 {
						c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
					}
					w.set(c)
				}
			case 6:
				if v := w.volumes[name]; v != nil && v.Spec.ClaimRef == nil && r.IntN(2) == 0 {
					delete(w.volumes, name)
					w.setVolume(name, nil)
				} else if v == nil {
					v := makeVolume(name, "s", pick("1Gi", "2Gi"), pick("", "n0", "n1", "n2"))
					v.Spec.AccessModes = append(v.Spec.AccessModes, corev1.ReadWriteOncePod)
					if r.IntN(2) == 0 {
						v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: disks, VolumeHandle: v.Name}
					}
					w.set(v)
				}
			case 7:
				if p := w.pods[name]; p != nil {
					delete(w.pods, name)
					w.removePod(p.UID)
				}
			case 8:
				carryOut()
			case 9:
				if w.tell(makeDriver(r.IntN(2) == 0, r.IntN(2) == 0)); r.IntN(3) == 0 {
					w.setDriver(disks, nil)
				}
			case 10:
				w.tell(makeRoom(pick("r", "s"), pick("", "n0", "n1", "n2"), pick("0", "1Gi", "3Gi"), ""))
			case 11:
				if w.tell(makeDriverNode(node, int32(r.IntN(3)))); r.IntN(3) == 0 {
					w.setCSINode(node, nil)
				}
			case 12:
				if w.tell(attachment(name, node, pick("pvc-1", "pvc-2", name))); r.IntN(2) == 0 {
					w.setAttachment(name, nil)
				}
			}
			w.step(t)
		}
		w.setDriver(disks, nil) // it makes what was decided
		for range 20 {
			carryOut()
			w.step(t)
		}
		if len(w.claimants.binding) > 0 || len(w.cluster.volumes.choices) > 0 || len(w.cluster.volumes.reserved) > 0 {
			t.Fatalf("seed %d: %d pods and %d choices are left over", seed, len(w.claimants.binding), len(w.cluster.volumes.choices))
		}
		used := map[string]int{}
		for _, p := range w.pods {
			if p.Spec.NodeName != "" {
				for _, use := range claimsOf(p) {
					used[use.key]++
				}
			}
		}
		if fmt.Sprint(used) != fmt.Sprint(w.cluster.volumes.used) {
			t.Fatalf("seed %d: used %v, want %v", seed, w.cluster.volumes.used, used)
		}
	}
}
