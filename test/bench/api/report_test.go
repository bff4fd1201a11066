package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/test/bench/measure"
	"github.com/musterhq/muster/test/bench/process"
)

func twoSystems(name string, goal float64, ours, theirs measure.Round) Report {
	size := &Size{Nodes: 3}
	size.add(aCase{name: name, goal: goal}, "muster", ours)
	size.add(aCase{name: name, goal: goal}, "kubernetes", theirs)
	return Report{Systems: []string{"muster", "kubernetes"}, Sizes: []*Size{size}}
}

func memories(nodes int, ours, theirs Memory) Report {
	return Report{Systems: []string{"muster", "kubernetes"}, Sizes: []*Size{{Nodes: nodes, Memory: map[string][]Memory{"muster": {ours}, "kubernetes": {theirs}}}}}
}

func TestGoals(t *testing.T) {
	slow, fast := measure.Round{Count: 1, PerSecond: 100}, measure.Round{Count: 1, PerSecond: 500}
	small := Memory{Idle: []process.Residence{{RSS: 50}, {RSS: 100}}, Loaded: []process.Residence{{RSS: 200}}, Ready: 600, Restart: 500}
	large := Memory{Idle: []process.Residence{{RSS: 300}}, Loaded: []process.Residence{{RSS: 799}}, Ready: 4000, Restart: 4000}
	for _, c := range []struct {
		name   string
		report Report
		want   []bool
	}{
		{"reached", twoSystems("get/json/1", 5, fast, slow), []bool{true}},
		{"not quite", twoSystems("get/json/1", 5, measure.Round{Count: 1, PerSecond: 499}, slow), []bool{false}},
		{"no goal is set", twoSystems("list/1000/json/whole", 0, fast, slow), nil},
		{"one system alone is not compared", twoSystems("get/json/1", 5, fast, measure.Round{}), nil},
		// Idle is a third, loaded is more than a quarter, it was ready in time.
		{"three nodes", memories(3, small, large), []bool{true, false, true}},
		// The first start of a single node is judged as well.
		{"one node", memories(1, small, large), []bool{true, false, false, true}},
	} {
		got := c.report.goals()
		if len(got) != len(c.want) {
			t.Errorf("%s: %d goals, want %d: %+v", c.name, len(got), len(c.want), got)
			continue
		}
		for i, g := range got {
			if g.Reached != c.want[i] {
				t.Errorf("%s: %+v, want reached %v", c.name, g, c.want[i])
			}
		}
	}
}

func TestTheTablesShowBothWithRatios(t *testing.T) {
	r := twoSystems("create/json/64", 5, measure.Round{Count: 1, PerSecond: 6000, P50: 6.789, P99: 20, ServerMicros: 100, Errors: 3}, measure.Round{Count: 1, PerSecond: 1000, P50: 16, P99: 80, ServerMicros: 950})
	r.Sizes[0].Memory = memories(3, Memory{Idle: []process.Residence{{RSS: 100}}}, Memory{Idle: []process.Residence{{RSS: 250}, {RSS: 400}}}).Sizes[0].Memory
	r.Goals = r.goals()
	var out strings.Builder
	r.print(&out)
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"create/json/64 *6000 6.79 20.0 100 1000 16.0 80.0 950 6.00 9.50 5",
		"idle RSS MiB 100 400 0.25 0.33",
		"reached 3 nodes: create/json/64: at least 5 times the rate: 6.00 times",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
}

func TestRoundsOfACaseAreKeptTogether(t *testing.T) {
	size := &Size{Nodes: 1}
	k := aCase{name: "get/json/1", goal: 5}
	for _, rate := range []float64{100, 300, 200} {
		size.add(k, "muster", measure.Round{Count: 1, PerSecond: rate})
	}
	if len(size.Cases) != 1 || len(size.Cases[0].Rounds["muster"]) != 3 || size.Cases[0].Median["muster"].PerSecond != 200 {
		t.Errorf("got %+v, want one case with three rounds and their median", size.Cases)
	}
	path := filepath.Join(t.TempDir(), "report.json")
	if err := (&Report{Sizes: []*Size{size}}).write(path); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), `"perSecond": 300`) {
		t.Errorf("the file lacks a round, or %v", err)
	}
}

func TestOnlyChoosesByTheBeginningOfNames(t *testing.T) {
	b := &bench{only: []string{"create", "list/10000/json"}}
	for name, want := range map[string]bool{"create/json/1": true, "list/10000/json/pages": true, "list/1000/json/pages": false, "get/json/1": false} {
		if got := b.wants(name); got != want {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	if !(&bench{}).wants(familyMemory) {
		t.Error("nothing was named, and memory is not run")
	}
}

func TestEveryCaseHasANameOfItsOwnAndAFamily(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range (&bench{pods: 10_000}).cases() {
		if seen[c.name] || !strings.HasPrefix(c.name, c.family+"/") {
			t.Errorf("%s of family %s is there twice, or not named for it", c.name, c.family)
		}
		seen[c.name] = true
	}
}

func TestTheSlowestIsAmongThoseWhoStillWatch(t *testing.T) {
	fast, slow, gone := &watcher{}, &watcher{}, &watcher{}
	fast.heard.Store(9)
	slow.heard.Store(4)
	gone.gone.Store(true)
	if got := slowest([]*watcher{fast, slow, gone}); got != 4 {
		t.Errorf("got %d, want 4", got)
	}
	if got := slowest([]*watcher{gone}); got != math.MaxInt64 {
		t.Errorf("got %d with nobody watching, want nothing to wait for", got)
	}
}
