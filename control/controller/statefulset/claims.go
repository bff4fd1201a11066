package statefulset

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/store"
)

// ensureClaims plans the claims that a pod needs and that are not there. It is false
// while one of them is on its way out: a pod that took it would lose its data.
func (o *ordered) ensureClaims(pod *corev1.Pod) bool {
	fit := true
	for i := range o.set.Spec.VolumeClaimTemplates {
		t := &o.set.Spec.VolumeClaimTemplates[i]
		there := o.claim(claimName(t, pod))
		switch {
		case there == nil:
			claim := t.DeepCopy()
			claim.Namespace, claim.Name = o.set.Namespace, claimName(t, pod)
			if claim.Labels == nil {
				claim.Labels = map[string]string{}
			}
			maps.Copy(claim.Labels, o.set.Spec.Selector.MatchLabels)
			claim.OwnerReferences = owners(claim, o.set, pod)
			o.plan.claims = append(o.plan.claims, claim)
		case there.DeletionTimestamp != nil, isStale(there, pod):
			fit = false
		}
	}
	return fit
}

// isStale: a claim that still belongs to an earlier pod of the name goes with it.
func isStale(claim *corev1.PersistentVolumeClaim, pod *corev1.Pod) bool {
	return slices.ContainsFunc(claim.OwnerReferences, func(ref metav1.OwnerReference) bool {
		return isRef(ref, pod, store.Pods.Kind) && ref.UID != pod.UID
	})
}

// own plans to write those claims of a pod whose owners do not say what the set's
// retention policy says.
func (o *ordered) own(pod *corev1.Pod) {
	for i := range o.set.Spec.VolumeClaimTemplates {
		claim := o.claim(claimName(&o.set.Spec.VolumeClaimTemplates[i], pod))
		if claim == nil || isStale(claim, pod) || slices.ContainsFunc(claim.OwnerReferences, func(ref metav1.OwnerReference) bool {
			return isRef(ref, o.set, store.StatefulSets.Kind) && ref.UID != o.set.UID
		}) {
			continue
		}
		if refs := owners(claim, o.set, pod); !apiequality.Semantic.DeepEqual(claim.OwnerReferences, refs) {
			owned := claim.DeepCopy()
			owned.OwnerReferences = refs
			o.plan.owned = append(o.plan.owned, owned)
		}
	}
}

func isRef(ref metav1.OwnerReference, obj metav1.Object, kind schema.GroupVersionKind) bool {
	return ref.Kind == kind.Kind && ref.APIVersion == kind.GroupVersion().String() && ref.Name == obj.GetName()
}

// owners are a claim's owners as the set's policy wants them: the set, for claims that go
// with it; and a pod that is beyond the set's ordinals, for claims that go when it
// shrinks. With another controller as an owner the claim is none of the set's.
func owners(claim *corev1.PersistentVolumeClaim, set *appsv1.StatefulSet, pod *corev1.Pod) []metav1.OwnerReference {
	const remove = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	var policy appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy
	if p := set.Spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		policy = *p
	}
	var refs []metav1.OwnerReference
	others := false
	for _, ref := range claim.OwnerReferences {
		if isRef(ref, set, store.StatefulSets.Kind) || isRef(ref, pod, store.Pods.Kind) {
			continue
		}
		refs = append(refs, ref)
		others = others || ref.Controller != nil && *ref.Controller
	}
	if others {
		return refs
	}
	_, ordinal := nameOf(pod)
	beyond := policy.WhenScaled == remove && !inRange(set, ordinal)
	switch {
	case beyond:
		refs = append(refs, *metav1.NewControllerRef(pod, store.Pods.Kind))
	case policy.WhenDeleted == remove:
		refs = append(refs, *metav1.NewControllerRef(set, store.StatefulSets.Kind))
	}
	return refs
}
