package statefulset

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
)

// Like are a pod and claims as a set's templates would have them stored.
type Like struct {
	Pod    *corev1.Pod
	Claims []*corev1.PersistentVolumeClaim // by template
}

// Outlook is what would become of a set that has those pods and revisions. claim finds
// claims that there are, nil for none.
func Outlook(set *appsv1.StatefulSet, owned []*appsv1.ControllerRevision, pods []*corev1.Pod, claim func(name string) *corev1.PersistentVolumeClaim, like Like) (controller.Outlook, error) {
	present, err := presentRevision(set, owned)
	if err != nil {
		return controller.Outlook{}, err
	}
	o := &ordered{set: set, current: present, update: present, claim: claim}
	o.sort(pods, wanted(set)) // of whom there are not too many: package planning has looked
	partition, most := o.rolling()
	out := controller.Outlook{Leave: o.condemned, Unavailable: most, Ordered: !o.parallel()}
	var replace []controller.Coming
	for _, pod := range o.replicas {
		switch stale := pod.Labels[appsv1.StatefulSetRevisionLabel] != present.name; {
		case !exists(pod):
			out.Come = append(out.Come, o.comingAs(pod, like))
		case !stale || o.place(pod) < partition:
			out.Stay = append(out.Stay, pod)
		case set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType:
			out.Stay = append(out.Stay, pod)
			out.Notes = []string{"updateStrategy OnDelete: pods are replaced once somebody deletes them"}
		default:
			coming := o.comingAs(podOf(set, present, first(set)+o.place(pod)), like)
			coming.Of = pod
			replace = append(replace, coming)
		}
	}
	slices.Reverse(replace)
	out.Come = append(out.Come, replace...)
	return out, nil
}

// presentRevision is that of a set's template, which need not be stored yet.
func presentRevision(set *appsv1.StatefulSet, owned []*appsv1.ControllerRevision) (revision, error) {
	patch, err := controller.TemplatePatch(&set.Spec.Template)
	if err != nil {
		return revision{}, fmt.Errorf("template: %w", err)
	}
	for _, r := range slices.Backward(owned) {
		if bytes.Equal(r.Data.Raw, patch) {
			return revision{r.Name, &set.Spec.Template}, nil
		}
	}
	return revision{set.Name + "-" + revisionHash(patch, ptr.Deref(set.Status.CollisionCount, 0)), &set.Spec.Template}, nil
}

// comingAs is a pod of the set as it would be stored, with the claims that it lacks.
func (o *ordered) comingAs(made *corev1.Pod, like Like) controller.Coming {
	pod := controller.Another(like.Pod, made.Name)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	maps.Copy(pod.Labels, made.Labels)
	pod.Spec.Hostname, pod.Spec.Subdomain = made.Spec.Hostname, made.Spec.Subdomain
	setVolumes(o.set, pod)
	coming := controller.Coming{Pod: pod}
	for i := range o.set.Spec.VolumeClaimTemplates {
		name := claimName(&o.set.Spec.VolumeClaimTemplates[i], pod)
		if i >= len(like.Claims) || o.claim(name) != nil {
			continue
		}
		claim := like.Claims[i].DeepCopy()
		claim.Name, claim.GenerateName = name, ""
		coming.Claims = append(coming.Claims, claim)
	}
	return coming
}
