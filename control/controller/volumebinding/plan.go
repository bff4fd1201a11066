package volumebinding

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// cluster is what plans are made from. What it gives must not be changed.
type cluster interface {
	// claim, volume, class and node are nil when there is none.
	claim(namespace, name string) *corev1.PersistentVolumeClaim
	volume(name string) *corev1.PersistentVolume
	class(name string) *storagev1.StorageClass
	node(name string) *corev1.Node
	classes() []*storagev1.StorageClass
	// candidates are the volumes that are for the claim or for anybody.
	candidates(claim *corev1.PersistentVolumeClaim) []*corev1.PersistentVolume
	// waiting names the pods without a node that use the claim.
	waiting(claim *corev1.PersistentVolumeClaim) []string
}

// plan is how a volume and a claim should be, nil where nothing is to be done. The
// volume is written first: who dies in between leaves a volume that names its claim,
// and a claim that finds it.
type plan struct {
	volume *corev1.PersistentVolume // created if it has no uid
	claim  *corev1.PersistentVolumeClaim
	// remove: the volume goes; nobody can reach what it holds.
	remove bool
	said   []said // once that is written
}

// said is an event about the plan's volume or claim.
type said struct {
	onVolume              bool
	kind, reason, message string
}

func (p *plan) say(kind, reason, format string, args ...any) {
	p.said = append(p.said, said{false, kind, reason, fmt.Sprintf(format, args...)})
}

func (p *plan) sayOfVolume(kind, reason, format string, args ...any) {
	p.said = append(p.said, said{true, kind, reason, fmt.Sprintf(format, args...)})
}

// planClaim decides about a claim. The error says what is wrong with it.
func planClaim(c cluster, claim *corev1.PersistentVolumeClaim) (plan, error) {
	switch {
	case metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted):
		return planBound(c, claim), nil
	case claim.DeletionTimestamp != nil:
		return plan{}, nil // upstream would bind it; nobody will use it
	case claim.Spec.VolumeName != "":
		return planRequested(c, claim), nil
	}
	return planOpen(c, claim)
}

// planBound: the claim has been bound once, and is for good; its volume may be lost.
func planBound(c cluster, claim *corev1.PersistentVolumeClaim) plan {
	v := c.volume(claim.Spec.VolumeName)
	switch {
	case claim.Spec.VolumeName == "":
		return lost(claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	case v == nil:
		return lost(claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == claim.UID:
		return bound(v, claim)
	}
	return lost(claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

func lost(claim *corev1.PersistentVolumeClaim, reason, message string) plan {
	var p plan
	if claim.Status.Phase != corev1.ClaimLost {
		p.claim = inPhase(claim, corev1.ClaimLost, nil)
		p.say(corev1.EventTypeWarning, reason, "%s", message)
	}
	return p
}

// planRequested: the user asked for that very volume.
func planRequested(c cluster, claim *corev1.PersistentVolumeClaim) plan {
	p := plan{claim: inPhase(claim, corev1.ClaimPending, nil)}
	v := c.volume(claim.Spec.VolumeName)
	switch {
	case v == nil: // it may come
	case v.Spec.ClaimRef == nil:
		if problem := mismatch(v, claim); problem != "" {
			p.say(corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind to requested volume %q: %s", v.Name, problem)
			return p
		}
		return bound(v, claim)
	case volume.IsVolumeBoundToClaim(v, claim):
		return bound(v, claim)
	default:
		p.say(corev1.EventTypeWarning, "FailedBinding", "volume %q already bound to a different claim.", v.Name)
	}
	return p
}

// mismatch is why a volume that was asked for is not for the claim.
func mismatch(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) string {
	wants, has := claim.Spec.Resources.Requests[corev1.ResourceStorage], v.Spec.Capacity[corev1.ResourceStorage]
	switch {
	case v.DeletionTimestamp != nil:
		return fmt.Sprintf("the volume is marked for deletion %q", v.Name)
	case has.Value() < wants.Value():
		return "requested PV is too small"
	case volume.GetPersistentVolumeClass(v) != volume.GetPersistentVolumeClaimClass(claim):
		return "storageClassName does not match"
	case ptr.Deref(v.Spec.VolumeAttributesClassName, "") != ptr.Deref(claim.Spec.VolumeAttributesClassName, ""):
		return "volumeAttributesClassName does not match"
	case volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec):
		return "incompatible volumeMode"
	case !volume.CheckAccessModes(claim, v):
		return "incompatible accessMode"
	}
	return ""
}

// planOpen: the user takes any volume that fits.
func planOpen(c cluster, claim *corev1.PersistentVolumeClaim) (plan, error) {
	name := volume.GetPersistentVolumeClaimClass(claim)
	class := c.class(name)
	delayed := class != nil && ptr.Deref(class.VolumeBindingMode, "") == storagev1.VolumeBindingWaitForFirstConsumer
	v, err := best(c.candidates(claim), claim, delayed)
	if err != nil {
		return plan{}, err
	}
	if v != nil {
		return bound(v, claim), nil
	}
	if !volume.PersistentVolumeClaimHasClass(claim) {
		if class := standard(c.classes()); class != nil {
			claim = claim.DeepCopy()
			claim.Spec.StorageClassName = ptr.To(class.Name)
			return plan{claim: claim}, nil
		}
	}
	switch {
	case delayed && !volume.IsDelayBindingProvisioning(claim):
		p := plan{claim: inPhase(claim, corev1.ClaimPending, nil)}
		switch pods := slices.Sorted(slices.Values(c.waiting(claim))); len(pods) {
		case 0:
			p.say(corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
		case 1:
			p.say(corev1.EventTypeNormal, "WaitForPodScheduled", "waiting for pod %s to be scheduled", pods[0])
		default:
			p.say(corev1.EventTypeNormal, "WaitForPodScheduled", "waiting for pods %s to be scheduled", strings.Join(pods, ","))
		}
		return p, nil
	case name != "":
		return provision(c, claim, class, name), nil
	}
	p := plan{claim: inPhase(claim, corev1.ClaimPending, nil)}
	p.say(corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	return p, nil
}

// best is the volume that is already meant for the claim, or else the smallest of
// those with the fewest access modes that do; nil when there is none. With delayed, it
// is the scheduler who chooses, and only what it has chosen counts.
func best(volumes []*corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim, delayed bool) (*corev1.PersistentVolume, error) {
	byModes := map[int][]*corev1.PersistentVolume{}
	for _, v := range volumes {
		if volume.CheckAccessModes(claim, v) {
			byModes[len(v.Spec.AccessModes)] = append(byModes[len(v.Spec.AccessModes)], v)
		}
	}
	var found *corev1.PersistentVolume
	for modes := 1; len(byModes) > 0; modes++ {
		group := byModes[modes]
		delete(byModes, modes)
		slices.SortFunc(group, func(a, b *corev1.PersistentVolume) int { return strings.Compare(a.Name, b.Name) })
		v, err := volume.FindMatchingVolume(claim, group, nil, nil, delayed, true)
		switch {
		case err != nil:
			return nil, err
		case v != nil && volume.IsVolumeBoundToClaim(v, claim):
			return v, nil
		case found == nil:
			found = v
		}
	}
	return found, nil
}

// standard is the class of claims that name none: the newest of those that say so.
func standard(classes []*storagev1.StorageClass) *storagev1.StorageClass {
	var newest *storagev1.StorageClass
	for _, class := range classes {
		if class.Annotations["storageclass.kubernetes.io/is-default-class"] != "true" && class.Annotations["storageclass.beta.kubernetes.io/is-default-class"] != "true" {
			continue
		}
		if newest == nil || class.CreationTimestamp.After(newest.CreationTimestamp.Time) ||
			class.CreationTimestamp.Equal(&newest.CreationTimestamp) && class.Name < newest.Name {
			newest = class
		}
	}
	return newest
}

// bound is both as they are once they are bound to each other.
func bound(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) plan {
	was := v
	v = v.DeepCopy()
	if !volume.IsVolumeBoundToClaim(was, claim) {
		metav1.SetMetaDataAnnotation(&v.ObjectMeta, volume.AnnBoundByController, "yes")
	}
	if ref := was.Spec.ClaimRef; ref == nil || ref.UID != claim.UID || ref.Name != claim.Name || ref.Namespace != claim.Namespace {
		v.Spec.ClaimRef = refOf(claim)
	}
	if v.Status.Phase != corev1.VolumeBound {
		v.Status.Phase, v.Status.Message, v.Status.Reason = corev1.VolumeBound, "", ""
	}
	return plan{volume: v, claim: boundTo(claim, v)}
}

func refOf(claim *corev1.PersistentVolumeClaim) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		Kind: "PersistentVolumeClaim", APIVersion: "v1",
		Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
	}
}

// boundTo is a claim that has the volume.
func boundTo(claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) *corev1.PersistentVolumeClaim {
	now := inPhase(claim, corev1.ClaimBound, v)
	if now.Spec.VolumeName != v.Name {
		now.Spec.VolumeName = v.Name
		metav1.SetMetaDataAnnotation(&now.ObjectMeta, volume.AnnBoundByController, "yes")
	}
	metav1.SetMetaDataAnnotation(&now.ObjectMeta, volume.AnnBindCompleted, "yes")
	return now
}

// inPhase is the claim in a phase, with what it then says of its volume. Its
// capacity is taken over when it becomes bound and not later: the two may differ while one
// of them is being resized.
func inPhase(claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, v *corev1.PersistentVolume) *corev1.PersistentVolumeClaim {
	was := claim.Status.Phase
	claim = claim.DeepCopy()
	claim.Status.Phase = phase
	if v == nil {
		claim.Status.AccessModes, claim.Status.Capacity, claim.Status.CurrentVolumeAttributesClassName = nil, nil, nil
		return claim
	}
	claim.Status.AccessModes = v.Spec.AccessModes
	if was == phase {
		return claim
	}
	if !apiequality.Semantic.DeepEqual(claim.Status.Capacity[corev1.ResourceStorage], v.Spec.Capacity[corev1.ResourceStorage]) {
		claim.Status.Capacity = v.Spec.Capacity
	}
	if was == corev1.ClaimPending && phase == corev1.ClaimBound {
		claim.Status.CurrentVolumeAttributesClassName = v.Spec.VolumeAttributesClassName
	}
	return claim
}
