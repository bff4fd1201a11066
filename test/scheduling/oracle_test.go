package scheduling

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/klog/v2"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"

	"github.com/musterhq/muster/control/scheduler"
	"github.com/musterhq/muster/control/scheduler/configuration"
)

var clusters = flag.Int("clusters", 300, "how many random clusters")

// kube-scheduler says much of how it reads each file.
func TestMain(m *testing.M) {
	klog.SetOutput(io.Discard)
	klog.LogToStderr(false)
	flag.Parse()
	os.Exit(m.Run())
}

// told counts how often upstream's plugins made a difference between nodes, and how
// often those of volumes gave which reason.
type told struct{ refusals, scores, reasons map[string]int }

// Ours and upstream's plugins look at the same random clusters, which change while
// ours counts along and upstream's counts anew.
func TestDecidesAsUpstream(t *testing.T) {
	usual := file{Profiles: make([]schedulerv1.KubeSchedulerProfile, 1)}
	compareAll(t, func(*maker) file { return usual })
}

// The same with profiles: other plugins, weights and arguments, read from the same
// file by both.
func TestProfilesDecideAsUpstream(t *testing.T) {
	compareAll(t, (*maker).profiles)
}

func compareAll(t *testing.T, profiles func(*maker) file) {
	all := told{map[string]int{}, map[string]int{}, map[string]int{}}
	for seed := range uint64(*clusters) {
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) { compare(t, seed, profiles, all) }) {
			return
		}
	}
	t.Log("refusals", all.refusals, "different scores", all.scores, "of volumes", all.reasons)
	for _, reason := range volumeReasons {
		if all.reasons[reason] < *clusters/10 {
			t.Errorf("%q: %d times, too few to have tested anything", reason, all.reasons[reason])
		}
	}
	for _, name := range names {
		if all.refusals[name]+all.scores[name] < *clusters/10 {
			t.Errorf("%s: %d refusals and %d differences in score, too few to have tested anything", name, all.refusals[name], all.scores[name])
		}
	}
}

// names are the plugins that have to have made a difference.
var names = []string{
	"NodeUnschedulable", "NodeName", "TaintToleration", "NodeAffinity", "NodePorts", "NodeResourcesFit",
	"PodTopologySpread", "InterPodAffinity", "NodeResourcesBalancedAllocation", "ImageLocality", "NodeDeclaredFeatures",
	"VolumeRestrictions", "NodeVolumeLimits", "VolumeBinding", "VolumeZone",
}

// volumeReasons are those that have to have been given, with … for names.
var volumeReasons = []string{
	"PVC … was not created for pod … (pod is not owner)", "PersistentVolume had no name", "PersistentVolumeClaim had no pv name and storageClass name",
	"node(s) didn't find available persistent volumes to bind", "node(s) didn't match PersistentVolume's node affinity", "node(s) exceed max volume count",
	"node(s) had no available disk", "node(s) had no available volume zone",
	"node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
	"node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)", "persistentvolume … not found",
	"persistentvolumeclaim … bound to non-existent persistentvolume …", "persistentvolumeclaim … is being deleted", "persistentvolumeclaim … not found",
	"pod has unbound immediate PersistentVolumeClaims", "storageclass.storage.k8s.io … not found",
	"node(s) did not have enough free storage", "example.org/files CSI driver is not installed on the node",
	"waiting for ephemeral volume controller to create the persistentvolumeclaim …",
}

var quoted = regexp.MustCompile(`"[^"]*"|\bns\S+`)

func (a told) count(answers map[string]scheduler.NodeAnswer) {
	first := map[string]int64{}
	for _, answer := range answers {
		for _, r := range answer.Refusals {
			a.refusals[r.Filter]++
			if strings.Contains(r.Filter, "Volume") {
				for _, reason := range r.Reasons {
					a.reasons[quoted.ReplaceAllString(reason, "…")]++
				}
			}
		}
		for _, s := range answer.Scores {
			if before, ok := first[s.Name]; !ok {
				first[s.Name] = s.Normalized
			} else if before != s.Normalized {
				a.scores[s.Name]++
			}
		}
	}
}

func compare(t *testing.T, seed uint64, profiles func(*maker) file, all told) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m := &maker{Rand: rand.New(rand.NewPCG(seed, 1))}
	state := m.state()
	text := profiles(m).text()
	read, err := configuration.Read(text)
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	state.Profiles = scheduler.NewProfiles(read, nil)
	theirs, err := ReadUpstream(text)
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	theirs.Profiles = withDefault(theirs.Profiles)
	if m.sometimes() {
		state.Algorithm = scheduler.BinPack
		pack(theirs.Profiles, read)
	}
	ours := scheduler.NewSnapshot(state)
	for range 4 {
		upstream, err := NewUpstream(ctx, state, theirs.Profiles)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			pod := m.pod()
			if m.sometimes() {
				pod.Spec.NodeName = "n0"
			}
			want, err := upstream.Ask(ctx, pod)
			if err != nil {
				t.Fatal(err)
			}
			all.count(want)
			for _, got := range ours.Ask(pod).Nodes {
				if difference := differ(pod, got, want[got.Node]); difference != "" {
					t.Fatalf("profiles %s\npod %s\non node %s: %s", text, show(pod), got.Node, difference)
				}
			}
		}
		// One pod comes, one goes.
		pod := m.pod()
		pod.Spec.NodeName = state.Nodes[m.IntN(len(state.Nodes))].Name
		m.settle(pod, &state)
		m.run(pod)
		ours.Assume(pod, pod.Spec.NodeName)
		state.Pods = append(state.Pods, pod)
		if i := m.IntN(len(state.Pods)); m.often() {
			ours.Remove(state.Pods[i])
			state.Pods = slices.Delete(state.Pods, i, i+1)
		}
	}
}

// withDefault adds the default profile, which Muster has whatever the file says.
func withDefault(profiles []config.KubeSchedulerProfile) []config.KubeSchedulerProfile {
	if slices.ContainsFunc(profiles, func(p config.KubeSchedulerProfile) bool { return p.SchedulerName == corev1.DefaultSchedulerName }) {
		return profiles
	}
	defaults, err := latest.Default()
	if err != nil {
		panic(err)
	}
	return append(profiles, defaults.Profiles[0])
}

// pack does what Muster's algorithm of the cluster does to profiles that have no
// strategy of their own.
func pack(profiles []config.KubeSchedulerProfile, read []configuration.Profile) {
	for i := range profiles {
		own := slices.ContainsFunc(read, func(p configuration.Profile) bool {
			return p.SchedulerName == profiles[i].SchedulerName && p.NodeResourcesFit.ScoringStrategy != nil
		})
		for _, c := range profiles[i].PluginConfig {
			if fit, ok := c.Args.(*config.NodeResourcesFitArgs); ok && !own {
				fit.ScoringStrategy.Type = config.MostAllocated
			}
		}
	}
}

// differ says how two answers about a node differ. Scores that one of them leaves
// out are 0 there, unless they are the same for every node. What a coming pod asks for
// as a whole counts in Muster's NodeResourcesFit; upstream counts it in every sum but
// that one.
func differ(pod *corev1.Pod, got, want scheduler.NodeAnswer) string {
	if len(got.Refusals) != len(want.Refusals) {
		return fmt.Sprintf("refused by %v, want %v", got.Refusals, want.Refusals)
	}
	for i := range got.Refusals {
		g, w := got.Refusals[i], want.Refusals[i]
		slices.Sort(g.Reasons)
		slices.Sort(w.Reasons)
		if g.Filter != w.Filter || !slices.Equal(g.Reasons, w.Reasons) {
			return fmt.Sprintf("refused by %v, want %v", g, w)
		}
	}
	if len(want.Refusals) > 0 {
		return ""
	}
	if resourcehelper.IsPodLevelRequestsSet(pod) {
		got, want = withoutFit(got), withoutFit(want)
	}
	for _, s := range slices.Concat(got.Scores, want.Scores) {
		if g, w := scoreOf(got, s.Name), scoreOf(want, s.Name); g != w {
			return fmt.Sprintf("%s scores %+v, want %+v", s.Name, g, w)
		}
	}
	if got.Total != want.Total {
		return fmt.Sprintf("total %d, want %d", got.Total, want.Total)
	}
	return ""
}

func withoutFit(of scheduler.NodeAnswer) scheduler.NodeAnswer {
	of.Total -= scoreOf(of, "NodeResourcesFit").Weighted
	of.Scores = slices.DeleteFunc(slices.Clone(of.Scores), func(s scheduler.Score) bool { return s.Name == "NodeResourcesFit" })
	return of
}

func scoreOf(of scheduler.NodeAnswer, name string) scheduler.Score {
	for _, s := range of.Scores {
		if s.Name == name {
			return s
		}
	}
	return scheduler.Score{Name: name}
}

func show(pod *corev1.Pod) string {
	raw, _ := json.MarshalIndent(pod, "", " ")
	return string(raw)
}
