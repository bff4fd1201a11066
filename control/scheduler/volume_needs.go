package scheduler

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// What upstream says about nodes whose volumes don't do.
const (
	reasonNodeConflict = "node(s) didn't match PersistentVolume's node affinity"
	reasonBindConflict = "node(s) didn't find available persistent volumes to bind"
	reasonNoSpace      = "node(s) did not have enough free storage"
	reasonNoVolume     = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
)

// needs is what a pod asks of a node's volumes, as things are now.
type needs struct {
	pod     *podInfo
	changes uint64
	// Why the pod can't go anywhere until that changes, in upstream's words: missing,
	// refusal and lost are what volumeRestrictions, volumeBinding and volumeZone say.
	missing, refusal, lost string

	bound   []*pv          // nil: it is bound to one that is not there
	unbound []unboundClaim // those that a node was selected for first
	zones   []volumeTopology
	// attaches are what drivers would attach for it.
	attaches map[csiVolume]bool
}

// unboundClaim is a claim whose volume depends on where the pod goes.
type unboundClaim struct {
	*corev1.PersistentVolumeClaim
	key      string
	size     int64
	selector labels.Selector // nil: any
	class    *storagev1.StorageClass
	chosen   *choice // nil: nothing was
	selected *string // the node where its volume is being made; nil: nowhere yet
	meant    []*pv   // volumes that name the claim
	// metered says that the class's driver tells what it has left, and rooms where.
	metered bool
	rooms   rooms
}

// needs works out, or remembers, what a pod with claims asks for.
func (v *volumes) needs(p *podInfo) *needs {
	if v.last == nil || v.last.pod != p || v.last.changes != v.changes {
		v.last = v.workOut(p)
	}
	return v.last
}

func (v *volumes) workOut(p *podInfo) *needs {
	n := &needs{pod: p, changes: v.changes}
	n.zones, n.lost = v.topologies(p)
	n.attaches = map[csiVolume]bool{}
	v.addCSI(n.attaches, p)
	for _, use := range p.claims {
		if v.claims[use.key] == nil && !use.made {
			n.missing = notFound("persistentvolumeclaim", nameIn(use.key))
			break
		}
	}
	for _, use := range p.claims {
		if n.refusal = v.refusal(p.pod, use); n.refusal != "" {
			return n
		}
	}
	immediate := false
	var open []unboundClaim
	for _, use := range p.claims {
		claim := v.claims[use.key]
		if claim.Spec.VolumeName != "" && metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted) {
			n.bound = append(n.bound, v.byName[claim.Spec.VolumeName])
			continue
		}
		class := v.classes[volume.GetPersistentVolumeClaimClass(claim)]
		if claim.Spec.VolumeName != "" || class == nil || ptr.Deref(class.VolumeBindingMode, "") != storagev1.VolumeBindingWaitForFirstConsumer {
			immediate = true
			continue
		}
		u, err := v.unbound(use.key, claim, class)
		if err != nil {
			n.refusal = err.Error()
			return n
		}
		if u.selected != nil {
			n.unbound = append(n.unbound, u)
		} else {
			open = append(open, u)
		}
	}
	if immediate {
		n.refusal = "pod has unbound immediate PersistentVolumeClaims"
	}
	// The smallest first, so that it leaves the larger volumes to the others.
	slices.SortStableFunc(open, func(a, b unboundClaim) int {
		return a.Spec.Resources.Requests.Storage().Cmp(*b.Spec.Resources.Requests.Storage())
	})
	n.unbound = append(n.unbound, open...)
	return n
}

// A barrier is a filter that may refuse a pod for its claims, whatever the nodes are like.
type barrier interface {
	bars(*needs) string
}

// barred is why a pod can't go anywhere, by the first filter that says so; "" if it may.
func (v *volumes) barred(p *podInfo) string {
	if len(p.claims) == 0 {
		return ""
	}
	for _, f := range p.profile.filters {
		if b, ok := f.(barrier); ok {
			if refusal := b.bars(v.needs(p)); refusal != "" {
				v.refuses(p)
				return refusal
			}
		}
	}
	return ""
}

// refuses notes that a pod was refused for what is here, so that it hears of changes.
func (v *volumes) refuses(p *podInfo) { v.refused[p.pod.UID] = struct{}{} }

// notFound is as the API says it.
func notFound(kind, name string) string { return fmt.Sprintf("%s %q not found", kind, name) }

func nameIn(key string) string {
	_, name, _ := strings.Cut(key, "/")
	return name
}

// refusal is why a pod with that claim can't go anywhere, "" if it may.
func (v *volumes) refusal(pod *corev1.Pod, use claimUse) string {
	claim, name := v.claims[use.key], nameIn(use.key)
	switch {
	case claim == nil && use.made:
		return fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
	case claim == nil:
		return notFound("persistentvolumeclaim", name)
	case claim.Status.Phase == corev1.ClaimLost:
		return fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
	}
	if use.made {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return err.Error()
		}
	}
	return ""
}

func (v *volumes) unbound(key string, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) (unboundClaim, error) {
	u := unboundClaim{PersistentVolumeClaim: claim, key: key, size: claim.Spec.Resources.Requests.Storage().Value(), class: class, chosen: v.choices[key]}
	if d := v.drivers[class.Provisioner]; d != nil && ptr.Deref(d.Spec.StorageCapacity, false) {
		u.metered, u.rooms = true, v.rooms[class.Name]
	}
	switch node, ok := claim.Annotations[volume.AnnSelectedNode]; {
	case u.chosen != nil && u.chosen.volume == "":
		u.selected = &u.chosen.node
	case ok:
		u.selected = &node
	}
	if claim.Spec.Selector != nil {
		var err error
		if u.selector, err = metav1.LabelSelectorAsSelector(claim.Spec.Selector); err != nil {
			return u, fmt.Errorf("error creating internal label selector for claim: %v: %w", key, err)
		}
	}
	for _, p := range v.forClaim[key] {
		if volume.GetPersistentVolumeClass(p.PersistentVolume) == class.Name && volume.IsVolumeBoundToClaim(p.PersistentVolume, claim) && u.takes(p) {
			u.meant = append(u.meant, p)
		}
	}
	slices.SortFunc(u.meant, func(a, b *pv) int { return strings.Compare(a.Name, b.Name) })
	return u, nil
}

// takes says whether a volume is such that the claim could be bound to it, if it is meant for it.
func (u *unboundClaim) takes(p *pv) bool {
	return p.Spec.Capacity.Storage().Cmp(*u.Spec.Resources.Requests.Storage()) >= 0 &&
		!volume.CheckVolumeModeMismatches(&u.Spec, &p.Spec) &&
		ptr.Deref(u.Spec.VolumeAttributesClassName, "") == ptr.Deref(p.Spec.VolumeAttributesClassName, "") &&
		p.DeletionTimestamp == nil
}

// finds is what the pod's claims would have on a node: those that are not bound yet are
// given volumes that are there, or one is made for them. Why not is appended to reasons.
func (v *volumes) finds(need *needs, n *nodeInfo, reasons []string) (chosen map[string]choice, _ []string) {
	gone := false
	for _, p := range need.bound {
		if gone = p == nil; gone {
			break
		}
		if !p.on(n) {
			reasons = append(reasons, reasonNodeConflict)
			break
		}
	}
	if len(need.unbound) > 0 {
		var reason string
		if chosen, reason = v.give(need.unbound, n); reason != "" {
			reasons = append(reasons, reason)
		}
	}
	if gone {
		reasons = append(reasons, reasonNoVolume)
	}
	return chosen, reasons
}

// give finds claims that are not bound what they would have on a node.
func (v *volumes) give(claims []unboundClaim, n *nodeInfo) (chosen map[string]choice, reason string) {
	for i := range claims {
		if s := claims[i].selected; s != nil && *s != n.name {
			return nil, reasonBindConflict
		}
	}
	chosen = make(map[string]choice, len(claims))
	taken := map[string]bool{}
	for i := range claims {
		u, found := &claims[i], ""
		switch {
		case u.selected != nil:
		case u.chosen != nil:
			if p := v.byName[u.chosen.volume]; p == nil || !p.on(n) {
				return nil, reasonBindConflict
			}
			found = u.chosen.volume
		default:
			found = v.match(u, n, taken)
		}
		switch {
		case found != "":
		case !u.canBeMade(n):
			return nil, reasonBindConflict
		case u.metered && u.rooms.on(n, u.size) == nil:
			return nil, reasonNoSpace
		}
		taken[found] = true
		chosen[u.key] = choice{volume: found, node: n.name}
	}
	return chosen, ""
}

// match is the volume for a claim on a node: one that is meant for it, or the
// smallest that does. One that is meant for it and is elsewhere means that none does.
func (v *volumes) match(u *unboundClaim, n *nodeInfo, taken map[string]bool) string {
	for _, p := range u.meant {
		if taken[p.Name] {
			continue
		}
		if !p.on(n) {
			return ""
		}
		return p.Name
	}
	for _, p := range v.shelf(u.class.Name) {
		switch {
		case !u.takes(p), taken[p.Name], v.reserved[p.Name] != "", p.Status.Phase != corev1.VolumeAvailable:
		case u.selector != nil && !u.selector.Matches(labels.Set(p.Labels)):
		case !volume.CheckAccessModes(u.PersistentVolumeClaim, p.PersistentVolume), !p.on(n):
		default:
			return p.Name
		}
	}
	return ""
}

// canBeMade says whether a volume may be made for the claim so that it can be reached from the node.
func (u *unboundClaim) canBeMade(n *nodeInfo) bool {
	if u.class.Provisioner == "" || u.class.Provisioner == volume.NotSupportedProvisioner {
		return false
	}
	return len(u.class.AllowedTopologies) == 0 || slices.ContainsFunc(u.class.AllowedTopologies, func(term corev1.TopologySelectorTerm) bool {
		return len(term.MatchLabelExpressions) > 0 && !slices.ContainsFunc(term.MatchLabelExpressions, func(e corev1.TopologySelectorLabelRequirement) bool {
			value, ok := n.node.Labels[e.Key]
			return !ok || !slices.Contains(e.Values, value)
		})
	})
}
