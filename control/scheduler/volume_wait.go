package scheduler

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
)

// claimants are the pods whose claims decide what becomes of them: those that a node
// was found for and whose volumes are being bound, and those that a change of a claim may help.
type claimants struct {
	// binding are decisions that wait for volumes; due those whose volumes are there.
	binding map[types.UID]*binding
	due     []decision
	// queued are pods that were parked and wait still, by the claims that they use.
	queued   map[string]map[types.UID]struct{}
	attempts uint64
}

type binding struct {
	decision
	written bool // what was chosen is stored, and caches have shown it
}

func newClaimants() claimants {
	return claimants{binding: map[types.UID]*binding{}, queued: map[string]map[types.UID]struct{}{}}
}

// follow notes that a pod was parked, and unfollow that it waits no longer.
func (w *claimants) follow(p *podInfo) {
	for _, use := range p.claims {
		if w.queued[use.key] == nil {
			w.queued[use.key] = map[types.UID]struct{}{}
		}
		w.queued[use.key][p.pod.UID] = struct{}{}
	}
}

func (c *core) unfollow(p *podInfo) {
	for _, use := range p.claims {
		delete(c.claimants.queued[use.key], p.pod.UID)
		if len(c.claimants.queued[use.key]) == 0 {
			delete(c.claimants.queued, use.key)
		}
	}
	delete(c.cluster.volumes.refused, p.pod.UID)
	delete(c.cluster.volumes.limited, p.pod.UID)
}

// setClaim takes over a claim's state, or with nil that it is gone. Whoever waits
// for it is looked at again.
func (c *core) setClaim(key string, claim *corev1.PersistentVolumeClaim) {
	c.counting(key, func() { c.cluster.volumes.setClaim(key, claim) })
	c.wakeUsers(key)
}

// counting changes what a claim is, which may be one volume less for a driver's limit: its
// volume turns out not to be the driver's.
func (c *core) counting(key string, change func()) {
	before := c.cluster.volumes.csiOf(key)
	if change(); before.driver != "" && c.cluster.volumes.csiOf(key).driver != before.driver {
		c.wakeLimited()
	}
}

// wakeLimited has those pods looked at that a driver's limit kept away.
func (c *core) wakeLimited() {
	for uid := range c.cluster.volumes.limited {
		e := c.queue.entries[uid]
		if e == nil { // somebody asked about a pod that does not wait
			delete(c.cluster.volumes.limited, uid)
			continue
		}
		for _, use := range e.claims {
			c.wakeUsers(use.key)
		}
	}
}

// setVolume takes over a volume's state, or with nil that it is gone. It may help
// who found no volume of its class, or waits for that very one.
func (c *core) setVolume(name string, now *corev1.PersistentVolume) {
	classes, key := map[string]bool{}, ""
	old := c.cluster.volumes.byName[name]
	if old != nil {
		classes[volume.GetPersistentVolumeClass(old.PersistentVolume)] = true
	}
	if now != nil && now.Spec.ClaimRef != nil {
		key = now.Spec.ClaimRef.Namespace + "/" + now.Spec.ClaimRef.Name
	}
	c.counting(key, func() { c.cluster.volumes.setVolume(name, now) })
	if now == nil && old != nil && old.Spec.CSI != nil {
		c.wakeLimited() // it may have been attached still
	}
	if now != nil {
		classes[volume.GetPersistentVolumeClass(now)] = true
		if key != "" {
			c.wakeUsers(key)
		}
	}
	c.wakeRefused(func(claim *corev1.PersistentVolumeClaim) bool {
		return claim.Spec.VolumeName == name || claim.Spec.VolumeName == "" && classes[volume.GetPersistentVolumeClaimClass(claim)]
	})
}

func (c *core) setClass(name string, class *storagev1.StorageClass) {
	c.cluster.volumes.setClass(name, class)
	if class == nil {
		c.wakeLimited() // volumes that are not made yet are nobody's now
	}
	c.wakeRefused(func(claim *corev1.PersistentVolumeClaim) bool {
		return volume.GetPersistentVolumeClaimClass(claim) == name
	})
}

func (c *core) setCSINode(name string, node *storagev1.CSINode) {
	c.cluster.volumes.setCSINode(name, node)
	if n := c.cluster.nodes[name]; n != nil {
		c.cluster.gain(n)
	}
}

// setDriver takes over a driver's state. It may ask less of nodes than it did.
func (c *core) setDriver(name string, driver *storagev1.CSIDriver) {
	c.cluster.volumes.setDriver(name, driver)
	c.wakeRefused(func(*corev1.PersistentVolumeClaim) bool { return true })
}

// setRoom takes over what a driver has left somewhere. More of it may help who found no
// volume of the class.
func (c *core) setRoom(key string, now *storagev1.CSIStorageCapacity) {
	if class := c.cluster.volumes.setRoom(key, now); class != "" {
		c.wakeRefused(func(claim *corev1.PersistentVolumeClaim) bool {
			return volume.GetPersistentVolumeClaimClass(claim) == class
		})
	}
}

func (c *core) setAttachment(name string, now *storagev1.VolumeAttachment) {
	if n := c.cluster.nodes[c.cluster.volumes.setAttachment(name, now)]; n != nil {
		c.cluster.gain(n)
	}
}

// wakeUsers has the parked pods looked at that use a claim.
func (c *core) wakeUsers(key string) {
	for uid := range c.claimants.queued[key] {
		if e := c.queue.entries[uid]; e != nil && e.place == inParked {
			c.queue.wake(e, "")
		}
	}
}

// wakeRefused has those pods looked at that were refused for volumes and have a claim
// that is as asked.
func (c *core) wakeRefused(is func(*corev1.PersistentVolumeClaim) bool) {
	for uid := range c.cluster.volumes.refused {
		e := c.queue.entries[uid]
		if e == nil { // somebody asked about a pod that does not wait
			delete(c.cluster.volumes.refused, uid)
			continue
		}
		for _, use := range e.claims {
			if claim := c.cluster.volumes.claims[use.key]; claim != nil && is(claim) {
				c.wakeUsers(use.key) // also those of its class, who were not asked
				break
			}
		}
	}
}

// settleVolumes is told of a pod that is no longer about to be bound, or was, and of
// one that uses its claims no longer: who waits for the same may go now.
func (c *core) settleVolumes(uid types.UID, p *podInfo) {
	delete(c.claimants.binding, uid)
	for _, key := range c.cluster.volumes.settled(uid) {
		c.wakeUsers(key)
		class := ""
		if claim := c.cluster.volumes.claims[key]; claim != nil {
			class = volume.GetPersistentVolumeClaimClass(claim)
		}
		c.wakeRefused(func(claim *corev1.PersistentVolumeClaim) bool {
			return volume.GetPersistentVolumeClaimClass(claim) == class
		})
	}
	if p != nil {
		for _, use := range p.claims {
			c.wakeUsers(use.key)
		}
	}
}

// choose decides which volumes a pod that goes to n has, and has it wait for them
// if they are not bound yet.
func (c *core) choose(d *decision, n *nodeInfo) {
	p := d.entry.podInfo
	if len(p.claims) == 0 {
		return
	}
	d.volumes, _ = c.cluster.volumes.finds(c.cluster.volumes.needs(p), n, nil)
	if len(d.volumes) > 0 {
		c.cluster.volumes.decide(p.pod.UID, d.volumes)
		c.claimants.attempts++
		d.attempt = c.claimants.attempts
		d.patience = p.profile.bindTimeout
		c.claimants.binding[p.pod.UID] = &binding{decision: *d}
	}
}

// chosen is told that what was decided about a pod's volumes is stored, and that
// claims and volumes were heard of since.
func (c *core) chosen(d decision) {
	if b := c.claimants.binding[d.entry.pod.UID]; b != nil && b.attempt == d.attempt {
		b.written = true
	}
}

// volumesFailed is told that what was decided about a pod's volumes could not be stored,
// or came to nothing: the pod is tried again. False if it was decided otherwise already.
func (c *core) volumesFailed(d decision, now time.Time) bool {
	b := c.claimants.binding[d.entry.pod.UID]
	if b == nil || b.attempt != d.attempt {
		return false
	}
	c.bindFailed(d, false, now)
	return true
}

// takeDue are the decisions whose volumes are bound: their pods may be.
func (c *core) takeDue() []decision {
	due := c.claimants.due
	c.claimants.due = nil
	return due
}

// errVolumes: what was decided about a pod's volumes came to nothing.
var errVolumes = errors.New("binding volumes")

// checkVolumes moves those pods on whose volumes are bound, or won't be. It answers
// the latter, which are tried again.
func (c *core) checkVolumes(now time.Time) (failed []outcome) {
	for _, b := range c.claimants.binding {
		if !b.written {
			continue
		}
		switch bound, err := c.cluster.volumes.outcome(b.volumes, c.cluster.nodes[b.node]); {
		case err != nil:
			failed = append(failed, outcome{b.decision, err})
			c.volumesFailed(b.decision, now)
		case bound:
			c.settleVolumes(b.entry.pod.UID, nil)
			c.claimants.due = append(c.claimants.due, b.decision)
		}
	}
	return failed
}

// outcome says whether the chosen volumes are bound, or why they won't be.
func (v *volumes) outcome(chosen map[string]choice, n *nodeInfo) (bound bool, err error) {
	bound = true
	for key, c := range chosen {
		claim := v.claims[key]
		if claim == nil {
			return false, fmt.Errorf("%w: persistentvolumeclaim %q not found", errVolumes, key)
		}
		if n == nil || n.node == nil {
			return false, fmt.Errorf("%w: failed to get node %q", errVolumes, c.node)
		}
		switch p := v.byName[c.volume]; {
		case c.volume != "" && p == nil:
			return false, fmt.Errorf("%w: failed to check binding: persistentvolume %q not found", errVolumes, c.volume)
		case c.volume != "" && (p.Spec.ClaimRef == nil || p.Spec.ClaimRef.UID != claim.UID):
			return false, fmt.Errorf("%w: ClaimRef got reset for pv %q", errVolumes, c.volume)
		case c.volume == "" && claim.Annotations[volume.AnnSelectedNode] != c.node:
			return false, fmt.Errorf("%w: provisioning failed for PVC %q", errVolumes, claim.Name)
		}
		if claim.Spec.VolumeName == "" || !metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted) {
			bound = false
			continue
		}
		p := v.byName[claim.Spec.VolumeName]
		if p == nil {
			bound = false
			continue
		}
		if !p.on(n) {
			return false, fmt.Errorf("%w: pv %q node affinity doesn't match node %q", errVolumes, p.Name, c.node)
		}
	}
	return bound, nil
}
