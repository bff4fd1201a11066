package scheduler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/musterhq/muster/control/scheduler/configuration"
)

// profilesOf reads profiles as an operator would write them.
func profilesOf(t *testing.T, before *Profiles, text string) *Profiles {
	t.Helper()
	list, err := configuration.Read([]byte("apiVersion: " + configuration.APIVersion + "\nkind: " + configuration.Kind + "\nprofiles:\n" + text))
	if err != nil {
		t.Fatal(err)
	}
	return NewProfiles(list, before)
}

func by(profile string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.SchedulerName = profile }
}

// changeProfiles has the profile "other" come, change or go, or what default
// spreading goes by.
func (w *world) changeProfiles() {
	if w.r.IntN(2) == 0 {
		ns, selects := fmt.Sprint("ns", w.r.IntN(2)), labels.Set(nil)
		if w.r.IntN(3) > 0 {
			selects = labels.Set{"app": fmt.Sprint(w.r.IntN(3))}
		}
		w.core.cluster.keepers.setService(ns, "s", selects)
		w.core.freshen()
		return
	}
	other := []string{
		"{plugins: {multiPoint: {disabled: [{name: NodePorts}, {name: DefaultPreemption}, {name: NodeUnschedulable}]}}}",
		"{plugins: {multiPoint: {disabled: [{name: NodeResourcesFit}, {name: InterPodAffinity}]}}}",
		"{pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: ['1']}]}]}}}}]}",
		"{pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]}}]}",
		"",
	}[w.r.IntN(5)]
	if other == "" {
		w.core.setProfiles(standard)
		return
	}
	w.core.setProfiles(profilesOf(w.t, w.core.cluster.profiles, "- "+strings.Replace(other, "{", "{schedulerName: other, ", 1)))
}

func TestPodsOfAProfileComeAndGoWithIt(t *testing.T) {
	c := newCore(100)
	c.setNode(makeNode("a"))
	c.setPod(makePod("p", by("batch")))
	if d, ok := c.next(); ok {
		t.Fatalf("%s of another scheduler is decided about: %+v", d.entry.pod.Name, d)
	}

	batch := profilesOf(t, standard, "- {schedulerName: batch, pluginConfig: [{name: NodeAffinity, args: {addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: pool, operator: In, values: [batch]}]}]}}}}]}")
	c.setProfiles(batch)
	d, ok := c.next()
	if want := "0/1 nodes are available: 1 node(s) didn't match scheduler-enforced node affinity. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."; !ok || d.node != "" || d.message() != want {
		t.Fatalf("got %q, want %q", d.message(), want)
	}
	if again := profilesOf(t, batch, "- {schedulerName: batch, plugins: {score: {disabled: [{name: ImageLocality}]}}}"); again.of["batch"] == batch.of["batch"] || again.of[corev1.DefaultSchedulerName] != usual {
		t.Error("a profile that changed is as it was, or one that did not is not")
	} else {
		c.setProfiles(again)
	}
	if d, ok := c.next(); !ok || d.node != "a" {
		t.Fatalf("got %+v, want the pod on a once its profile allows it", d)
	}
	// The write fails after the profile is gone: nobody is to try again.
	c.setProfiles(standard)
	c.bindFailed(decision{entry: d.entry, node: "a"}, false, time.Time{})
	if len(c.queue.entries) != 0 || len(c.foreign) != 1 {
		t.Errorf("%d pods wait, %d are left alone, want 0 and 1", len(c.queue.entries), len(c.foreign))
	}
	c.removePod("pod-p")
	if len(c.foreign) != 0 {
		t.Error("a pod that is gone is remembered")
	}
}

// Profiles see the same nodes each in its own way, in one core.
func TestEachPodByItsProfile(t *testing.T) {
	ps := profilesOf(t, nil, `
- schedulerName: pack
  pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: MostAllocated}}}]
- schedulerName: loose
  plugins: {multiPoint: {disabled: [{name: NodeUnschedulable}]}}
  pluginConfig: [{name: NodeResourcesFit, args: {ignoredResourceGroups: [example.com]}}]
- schedulerName: polite
  plugins: {multiPoint: {disabled: [{name: DefaultPreemption}]}}
`)
	for name, c := range map[string]struct {
		profile, want string
		pod           func(*corev1.Pod)
	}{
		"spreads":                        {corev1.DefaultSchedulerName, "empty", requesting("cpu", "1", "memory", "1Gi")},
		"packs":                          {"pack", "used", requesting("cpu", "1", "memory", "1Gi")},
		"lacks a resource":               {corev1.DefaultSchedulerName, "", requesting("example.com/gpu", "1")},
		"ignores it, and the cordon too": {"loose", "cordoned", requesting("example.com/gpu", "1", "cpu", "7")},
		"evicts":                         {corev1.DefaultSchedulerName, "evicts", requesting("cpu", "3500m", "memory", "7Gi")},
		"evicts nobody":                  {"polite", "", requesting("cpu", "3500m", "memory", "7Gi")},
	} {
		t.Run(name, func(t *testing.T) {
			core := newCore(100)
			core.setProfiles(ps)
			core.setNode(makeNode("empty"))
			core.setNode(makeNode("used"))
			core.setNode(makeNode("cordoned", allocatable("cpu", "8", "memory", "1Gi", "pods", "10"), func(n *corev1.Node) { n.Spec.Unschedulable = true }))
			core.setPod(makePod("u", on("used"), requesting("cpu", "2", "memory", "4Gi")))
			if strings.HasPrefix(name, "evicts") {
				core.setPod(makePod("e", on("empty"), requesting("cpu", "2", "memory", "4Gi")))
			}
			core.setPod(makePod("p", by(c.profile), c.pod, priority(1)))
			d, _ := core.next()
			switch got := d.node; {
			case d.preemption != nil:
				if c.want != "evicts" {
					t.Errorf("evicts %d pods, want node %q", len(d.preemption.victims), c.want)
				}
			case got != c.want:
				t.Errorf("on %q (%v), want %q", got, d.diagnosis, c.want)
			}
			if name == "evicts nobody" {
				if want := "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu, 2 Insufficient memory."; d.message() != want {
					t.Errorf("got %q, want %q", d.message(), want)
				}
			}
		})
	}
}

// Hard constraints that a profile has for all of its pods follow the service that
// tells which pods count, also for a pod that waits already.
func TestDefaultConstraintsFollowServices(t *testing.T) {
	c := newCore(100)
	c.setProfiles(profilesOf(t, nil, "- {schedulerName: even, pluginConfig: [{name: PodTopologySpread, args: {defaultingType: List, defaultConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]}}]}"))
	c.setNode(makeNode("a", labelled("zone", "1")))
	c.setNode(makeNode("b", labelled("zone", "2"), func(n *corev1.Node) { n.Spec.Unschedulable = true }))
	c.cluster.keepers.setService("default", "s", labels.Set{"app": "x"})
	c.freshen()
	place := func(name string) string {
		c.setPod(makePod(name, by("even"), named("app", "x")))
		d, _ := c.next()
		return d.node
	}
	if got := place("first"); got != "a" {
		t.Fatalf("the first is on %q, want a", got)
	}
	if got := place("second"); got != "" {
		t.Fatalf("the second is on %q, want it to wait for zone 2", got)
	}
	c.cluster.keepers.setService("default", "s", nil)
	c.freshen()
	if d, ok := c.next(); !ok || d.node != "a" {
		t.Errorf("got %+v, %v, want the second on a without the service", d, ok)
	}
}

// A group is what is before the slash; upstream passes over no resources of
// Kubernetes' own, whatever the group is called.
func TestIgnoresExtendedResourcesAlone(t *testing.T) {
	fit := profilesOf(t, nil, "- {schedulerName: p, pluginConfig: [{name: NodeResourcesFit, args: {ignoredResources: [example.org/a, kubernetes.io/b], ignoredResourceGroups: [example.com, hugepages-2Mi, cpu]}}]}").of["p"].fit
	for name, want := range map[corev1.ResourceName]bool{
		"example.com/gpu": true, "example.org/a": true, "example.org/b": false, "hugepages-2Mi": false, "kubernetes.io/b": false, "cpu": false,
	} {
		if got := fit.ignores(name); got != want {
			t.Errorf("ignores %s: %v, want %v", name, got, want)
		}
	}
}
