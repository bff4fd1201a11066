package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
)

// volumes is what decisions about pods with claims are made from: claims, volumes,
// classes and what drivers say, as caches show them, and what was decided about them
// and is not stored yet. It is a part of the cluster and belongs to its goroutine.
type volumes struct {
	claims   map[string]*corev1.PersistentVolumeClaim // by namespace/name
	byName   map[string]*pv
	classes  map[string]*storagev1.StorageClass
	csiNodes map[string]*storagev1.CSINode
	drivers  map[string]*storagev1.CSIDriver
	rooms    map[string]rooms // by class
	roomOf   map[string]*room // by namespace/name
	// attachments are by name, and by node and name.
	attachments map[string]*storagev1.VolumeAttachment
	attachedTo  map[string]map[string]*storagev1.VolumeAttachment
	// forClaim are the volumes that name a claim, by namespace/name; open those that
	// are anybody's, by class, the smallest first once shelves are sorted.
	forClaim map[string]map[string]*pv
	open     map[string]map[string]*pv
	shelves  map[string][]*pv
	// used counts the placed pods that use a claim.
	used map[string]int
	// choices are what was decided for claims, reserved the volumes among that.
	choices  map[string]*choice
	reserved map[string]string // claim, by volume
	byPod    map[types.UID][]string
	// refused are pods in the queue that were refused for what is here.
	refused map[types.UID]struct{}
	// limited are those that a driver's limit kept away.
	limited map[types.UID]struct{}

	// changes counts news; what was worked out from older ones is worked out anew.
	changes uint64
	last    *needs
}

// pv is a volume with what decisions ask of it worked out once.
type pv struct {
	*corev1.PersistentVolume
	size     int64
	affinity *nodeaffinity.LazyErrorNodeSelector // nil: any node
	// named says that it asks for names of nodes. As upstream, a volume is held against a
	// node's labels alone, and what it asks of names holds anywhere.
	named bool
}

// choice is a volume for a claim, or with none the node where one is to be made. It
// stands as long as pods rely on it that wait for it to be carried out.
type choice struct {
	volume, node string
	pods         int
}

// claimUse is a claim that a pod uses.
type claimUse struct {
	key  string // namespace/name
	made bool   // for the pod: the volume is ephemeral
}

func newVolumes() *volumes {
	return &volumes{
		claims: map[string]*corev1.PersistentVolumeClaim{}, byName: map[string]*pv{}, classes: map[string]*storagev1.StorageClass{},
		csiNodes: map[string]*storagev1.CSINode{}, drivers: map[string]*storagev1.CSIDriver{}, rooms: map[string]rooms{}, roomOf: map[string]*room{},
		attachments: map[string]*storagev1.VolumeAttachment{}, attachedTo: map[string]map[string]*storagev1.VolumeAttachment{},
		forClaim: map[string]map[string]*pv{}, open: map[string]map[string]*pv{}, shelves: map[string][]*pv{},
		used: map[string]int{}, choices: map[string]*choice{}, reserved: map[string]string{}, byPod: map[types.UID][]string{},
		refused: map[types.UID]struct{}{}, limited: map[types.UID]struct{}{},
	}
}

// claimsOf are the claims that a pod uses.
func claimsOf(pod *corev1.Pod) []claimUse {
	var uses []claimUse
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			uses = append(uses, claimUse{key: pod.Namespace + "/" + v.PersistentVolumeClaim.ClaimName})
		case v.Ephemeral != nil:
			uses = append(uses, claimUse{key: pod.Namespace + "/" + ephemeral.VolumeClaimName(pod, v), made: true})
		}
	}
	return uses
}

func claimKey(claim *corev1.PersistentVolumeClaim) string { return claim.Namespace + "/" + claim.Name }

// setClaim takes over a claim's state, or with nil that it is gone.
func (v *volumes) setClaim(key string, claim *corev1.PersistentVolumeClaim) {
	v.changes++
	if claim == nil {
		delete(v.claims, key)
	} else {
		v.claims[key] = claim
	}
}

// setVolume takes over a volume's state, or with nil that it is gone.
func (v *volumes) setVolume(name string, now *corev1.PersistentVolume) {
	v.changes++
	if old := v.byName[name]; old != nil {
		shelf, key := v.shelfOf(old)
		delete(shelf[key], name)
		if len(shelf[key]) == 0 {
			delete(shelf, key)
		}
		delete(v.byName, name)
		delete(v.shelves, volume.GetPersistentVolumeClass(old.PersistentVolume))
	}
	if now == nil {
		return
	}
	p := &pv{PersistentVolume: now, size: now.Spec.Capacity.Storage().Value()}
	if a := now.Spec.NodeAffinity; a != nil && a.Required != nil {
		p.affinity = nodeaffinity.NewLazyErrorNodeSelector(a.Required)
		p.named = slices.ContainsFunc(a.Required.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool { return len(t.MatchFields) > 0 })
	}
	v.byName[name] = p
	shelf, key := v.shelfOf(p)
	if shelf[key] == nil {
		shelf[key] = map[string]*pv{}
	}
	shelf[key][name] = p
	delete(v.shelves, volume.GetPersistentVolumeClass(now))
}

// shelfOf is where a volume is looked for.
func (v *volumes) shelfOf(p *pv) (shelf map[string]map[string]*pv, key string) {
	if ref := p.Spec.ClaimRef; ref != nil {
		return v.forClaim, ref.Namespace + "/" + ref.Name
	}
	return v.open, volume.GetPersistentVolumeClass(p.PersistentVolume)
}

func (v *volumes) setClass(name string, class *storagev1.StorageClass) {
	v.changes++
	if class == nil {
		delete(v.classes, name)
	} else {
		v.classes[name] = class
	}
}

// set takes over all of a state.
func (v *volumes) set(state State) {
	for _, claim := range state.Claims {
		v.setClaim(claimKey(claim), claim)
	}
	for _, p := range state.Volumes {
		v.setVolume(p.Name, p)
	}
	for _, class := range state.StorageClasses {
		v.setClass(class.Name, class)
	}
	for _, node := range state.CSINodes {
		v.setCSINode(node.Name, node)
	}
	for _, driver := range state.CSIDrivers {
		v.setDriver(driver.Name, driver)
	}
	for _, c := range state.CSIStorageCapacities {
		v.setRoom(c.Namespace+"/"+c.Name, c)
	}
	for _, a := range state.VolumeAttachments {
		v.setAttachment(a.Name, a)
	}
}

func (v *volumes) setCSINode(name string, node *storagev1.CSINode) {
	if node == nil {
		delete(v.csiNodes, name)
	} else {
		v.csiNodes[name] = node
	}
}

// use counts a pod that is on a node, or with sign -1 not any more. What is made for a pod
// is nobody else's, and does not count.
func (v *volumes) use(p *podInfo, sign int64) {
	for _, c := range p.claims {
		if !c.made {
			count(v.used, c.key, int(sign))
		}
	}
}

// decide notes what was chosen for a pod's claims, until settled.
func (v *volumes) decide(uid types.UID, chosen map[string]choice) {
	v.changes++
	for key, c := range chosen {
		there := v.choices[key]
		if there == nil {
			there = &c
			v.choices[key] = there
			if c.volume != "" {
				v.reserved[c.volume] = key
			}
		}
		there.pods++
		v.byPod[uid] = append(v.byPod[uid], key)
	}
}

// settled forgets what was chosen for a pod's claims: it is stored, or was given up.
// It answers the claims.
func (v *volumes) settled(uid types.UID) []string {
	keys := v.byPod[uid]
	if len(keys) == 0 {
		return nil
	}
	v.changes++
	delete(v.byPod, uid)
	for _, key := range keys {
		c := v.choices[key]
		if c.pods--; c.pods == 0 {
			delete(v.choices, key)
			if c.volume != "" {
				delete(v.reserved, c.volume)
			}
		}
	}
	return keys
}

// shelf are the volumes of a class that are anybody's, the smallest first.
func (v *volumes) shelf(class string) []*pv {
	sorted, ok := v.shelves[class]
	if !ok {
		for _, p := range v.open[class] {
			sorted = append(sorted, p)
		}
		slices.SortFunc(sorted, func(a, b *pv) int {
			if c := a.Spec.Capacity.Storage().Cmp(*b.Spec.Capacity.Storage()); c != 0 {
				return c
			}
			return strings.Compare(a.Name, b.Name)
		})
		v.shelves[class] = sorted
	}
	return sorted
}

// on says whether a volume can be reached from a node.
func (p *pv) on(n *nodeInfo) bool {
	if p.affinity == nil {
		return true
	}
	node := n.node
	if p.named {
		node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: node.Labels}}
	}
	ok, err := p.affinity.Match(node)
	return ok && err == nil
}
