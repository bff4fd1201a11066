package scheduling

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"

	"github.com/musterhq/muster/control/scheduler"
)

var clusters = flag.Int("clusters", 300, "how many random clusters")

// told counts how often upstream's plugins made a difference between nodes.
type told struct{ refusals, scores map[string]int }

// Ours and upstream's plugins look at the same random clusters, which change while
// ours counts along and upstream's counts anew.
func TestDecidesAsUpstream(t *testing.T) {
	all := told{map[string]int{}, map[string]int{}}
	for seed := range uint64(*clusters) {
		if !t.Run(fmt.Sprint(seed), func(t *testing.T) { compare(t, seed, all) }) {
			return
		}
	}
	t.Log("refusals", all.refusals, "different scores", all.scores)
	for _, name := range names {
		if all.refusals[name]+all.scores[name] < *clusters/10 {
			t.Errorf("%s: %d refusals and %d differences in score, too few to have tested anything", name, all.refusals[name], all.scores[name])
		}
	}
}

func (a told) count(answers map[string]scheduler.NodeAnswer) {
	first := map[string]int64{}
	for _, answer := range answers {
		for _, r := range answer.Refusals {
			a.refusals[r.Filter]++
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

func compare(t *testing.T, seed uint64, all told) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m := &maker{Rand: rand.New(rand.NewPCG(seed, 1))}
	state := m.state()
	strategy := config.LeastAllocated
	if m.sometimes() {
		state.Algorithm, strategy = scheduler.BinPack, config.MostAllocated
	}
	ours := scheduler.NewSnapshot(state)
	for range 4 {
		upstream, err := NewUpstream(ctx, state, strategy)
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
				if difference := differ(got, want[got.Node]); difference != "" {
					t.Fatalf("pod %s\non node %s: %s", show(pod), got.Node, difference)
				}
			}
		}
		// One pod comes, one goes.
		pod := m.pod()
		pod.Spec.NodeName = state.Nodes[m.IntN(len(state.Nodes))].Name
		ours.Assume(pod, pod.Spec.NodeName)
		state.Pods = append(state.Pods, pod)
		if i := m.IntN(len(state.Pods)); m.often() {
			ours.Remove(state.Pods[i])
			state.Pods = slices.Delete(state.Pods, i, i+1)
		}
	}
}

// differ says how two answers about a node differ. Scores that one of them leaves
// out are 0 there, unless they are the same for every node.
func differ(got, want scheduler.NodeAnswer) string {
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
	for _, name := range names {
		if g, w := score(got, name), score(want, name); g != w {
			return fmt.Sprintf("%s scores %+v, want %+v", name, g, w)
		}
	}
	return ""
}

func score(of scheduler.NodeAnswer, name string) scheduler.Score {
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
