package deployment

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/controller"
)

// Outlook is the rollout that a deployment with those replica sets would go through,
// and the replica set that there would be of its template. active are the pods of a
// set, those that go first at the front; like is a pod of the template.
func Outlook(d *appsv1.Deployment, sets []*appsv1.ReplicaSet, active func(*appsv1.ReplicaSet) []*corev1.Pod, like *corev1.Pod) (controller.Outlook, *appsv1.ReplicaSet) {
	r := &rollout{d: d}
	sets = slices.SortedFunc(slices.Values(sets), byAge)
	r.sort(sets)
	if d.Spec.Paused {
		return r.paused(active, like), r.fresh
	}
	var o controller.Outlook
	for _, set := range r.old {
		o.Old = append(o.Old, active(set)...)
	}
	if r.fresh != nil {
		o.Stay = active(r.fresh)
	} else {
		r.ensureFresh()
	}
	want := int(r.want())
	surplus := max(0, len(o.Stay)-want)
	o.Leave, o.Stay = o.Stay[:surplus], o.Stay[surplus:]
	o.Come = controller.Others(r.labelled(like), r.fresh.Name, want-len(o.Stay))
	o.Surge, o.Unavailable = int(r.surge()), int(r.unavailable())
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		if len(o.Old) > 0 {
			o.Notes = []string{"strategy Recreate: all old pods go before a new one comes"}
		}
		o.Leave, o.Old = append(o.Leave, o.Old...), nil
	}
	return o, r.fresh
}

// paused: pods are added and taken away, and none is replaced.
func (r *rollout) paused(active func(*appsv1.ReplicaSet) []*corev1.Pod, like *corev1.Pod) controller.Outlook {
	var has []*corev1.Pod
	for _, set := range r.all() {
		has = append(has, active(set)...)
	}
	want := int(r.want())
	surplus := max(0, len(has)-want)
	o := controller.Outlook{Leave: has[:surplus], Stay: has[surplus:], Notes: []string{"it is paused: no pod is replaced"}}
	if newest := r.newest(); newest != nil {
		o.Come = controller.Others(like, newest.Name, want-len(has))
	} else {
		o.Notes = []string{"it is paused: no pods are made"}
	}
	return o
}

// labelled is a pod as the new replica set would make it.
func (r *rollout) labelled(like *corev1.Pod) *corev1.Pod {
	pod := like.DeepCopy()
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	maps.Copy(pod.Labels, r.fresh.Spec.Template.Labels)
	return pod
}
