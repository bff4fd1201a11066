package daemonset

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/controller"
)

// Outlook is where pods of a set would run that has those pods and revisions already.
// like is a pod of its template.
func Outlook(ds *appsv1.DaemonSet, owned []*appsv1.ControllerRevision, nodes []*corev1.Node, pods []*corev1.Pod, like *corev1.Pod) (controller.Outlook, error) {
	hash, err := hashOf(ds, owned)
	if err != nil {
		return controller.Outlook{}, err
	}
	d := &daemons{ds: ds, hash: hash, onNode: map[string][]*corev1.Pod{}}
	for _, pod := range pods {
		d.onNode[targetOf(pod)] = append(d.onNode[targetOf(pod)], pod)
	}
	var o controller.Outlook
	var replace []controller.Coming
	where, template, desired := newFit(ds), podTemplate(ds, hash), 0
	for _, node := range slices.SortedFunc(slices.Values(nodes), func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) }) {
		run, stay := where.on(node)
		has := slices.SortedFunc(slices.Values(d.onNode[node.Name]), d.freshFirst)
		delete(d.onNode, node.Name)
		if run {
			desired++
		}
		switch {
		case run && len(has) == 0:
			o.Come = append(o.Come, controller.Coming{Pod: madeFor(node.Name, ds, template, like)})
		case len(has) == 0:
		case !stay:
			o.Leave = append(o.Leave, has...)
		case !run || d.isFresh(has[0]) || ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType:
			o.Stay, o.Leave = append(o.Stay, has[0]), append(o.Leave, has[1:]...)
		default:
			replace = append(replace, controller.Coming{Pod: madeFor(node.Name, ds, template, like), Of: has[0]})
			o.Leave = append(o.Leave, has[1:]...)
		}
	}
	for _, left := range d.onNode { // their nodes are gone
		o.Leave = append(o.Leave, left...)
	}
	o.Come = append(o.Come, replace...)
	o.Surge, o.Unavailable = d.surge(desired), d.unavailable(desired)
	if o.Surge == 0 {
		o.Unavailable = max(1, o.Unavailable)
	}
	if ds.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType && slices.ContainsFunc(o.Stay, func(pod *corev1.Pod) bool { return !d.isFresh(pod) }) {
		o.Notes = append(o.Notes, "updateStrategy OnDelete: pods are replaced once somebody deletes them")
	}
	return o, nil
}

// hashOf is that of the revision which a set's template is, or would be.
func hashOf(ds *appsv1.DaemonSet, owned []*appsv1.ControllerRevision) (string, error) {
	patch, err := controller.TemplatePatch(&ds.Spec.Template)
	if err != nil {
		return "", fmt.Errorf("template: %w", err)
	}
	for _, r := range slices.Backward(owned) {
		if bytes.Equal(r.Data.Raw, patch) {
			return r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey], nil
		}
	}
	return controller.TemplateHash(&ds.Spec.Template, ds.Status.CollisionCount), nil
}

// freshFirst puts a pod that an update has brought before the one that it replaces.
func (d *daemons) freshFirst(a, b *corev1.Pod) int {
	if fresh := d.isFresh(a); fresh != d.isFresh(b) {
		if fresh {
			return -1
		}
		return 1
	}
	return byAge(a, b)
}

// madeFor is the pod for a node: like, with what the controller adds to the template.
func madeFor(node string, ds *appsv1.DaemonSet, template *corev1.PodTemplateSpec, like *corev1.Pod) *corev1.Pod {
	pod := controller.Another(like, ds.Name+"-"+node)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	maps.Copy(pod.Labels, template.Labels)
	pod.Spec.Tolerations = tolerations(&pod.Spec)
	pod.Spec.Affinity = onNode(pod.Spec.Affinity, node)
	return pod
}
