package daemonset

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/controller"
)

// An outlook names the nodes that the controller would make pods for, and the pods that
// an update would replace on theirs.
func TestOutlookIsForTheNodesOfTheSet(t *testing.T) {
	ds := makeSet(0, 1)
	ds.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	hash, err := hashOf(ds, nil)
	if err != nil {
		t.Fatal(err)
	}
	fresh := func(p *corev1.Pod) { p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hash }
	slow := makeNode("slow")
	slow.Labels = nil
	nodes := []*corev1.Node{makeNode("a"), makeNode("b"), makeNode("c"), slow, makeNode("d", taint("mine", corev1.TaintEffectNoSchedule)),
		makeNode("e", taint(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule))}
	pods := []*corev1.Pod{makePod("on-a", "a", old), makePod("on-b", "b", fresh), makePod("on-slow", "slow", old), makePod("nowhere", "gone", old)}
	look := func() controller.Outlook {
		o, err := Outlook(ds, nil, nodes, pods, &corev1.Pod{})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := look()
	var made, replaced []string
	for _, it := range o.Come {
		made = append(made, targetOf(it.Pod))
		if it.Of != nil {
			replaced = append(replaced, it.Of.Name)
		}
		if len(it.Pod.Spec.Tolerations) == 0 {
			t.Errorf("the pod for %s has no tolerations, want a daemon's", targetOf(it.Pod))
		}
	}
	// Those without a pod come first: updates wait for them.
	if want := []string{"c", "e", "a"}; !slices.Equal(made, want) {
		t.Errorf("pods for %v, want %v", made, want)
	}
	if want := []string{"on-a"}; !slices.Equal(replaced, want) || o.Unavailable != 1 || o.Surge != 0 {
		t.Errorf("%v replaced with %d missing, %d beside; want %v with 1, 0", replaced, o.Unavailable, o.Surge, want)
	}
	if got, want := names(o.Leave), []string{"nowhere", "on-slow"}; !slices.Equal(got, want) {
		t.Errorf("%v leave, want %v", got, want)
	}
	ds.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType
	if o := look(); len(o.Come) != 2 || len(o.Stay) != 2 || len(o.Notes) != 1 {
		t.Errorf("with OnDelete %d come, %d stay, notes %q; want 2, 2 and what to do", len(o.Come), len(o.Stay), o.Notes)
	}
}
