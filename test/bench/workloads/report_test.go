package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/musterhq/muster/test/bench/measure"
)

func twoSystems(s step, ours, theirs Result) *Report {
	r := &Report{Systems: []string{"muster", "kubernetes"}}
	r.add(3, 1000, s, "muster", ours)
	r.add(3, 1000, s, "kubernetes", theirs)
	return r
}

func at(rate float64) Result { return Result{Round: measure.Round{Count: 1, PerSecond: rate}} }

func TestGoals(t *testing.T) {
	for _, c := range []struct {
		name   string
		report *Report
		want   []bool
	}{
		{"reached", twoSystems(step{name: "basic/create", goal: 5}, at(500), at(100)), []bool{true}},
		{"not quite", twoSystems(step{name: "basic/create", goal: 5}, at(499), at(100)), []bool{false}},
		{"no goal is set", twoSystems(step{name: "deployment/update"}, at(500), at(100)), nil},
		{"one system alone is not compared", twoSystems(step{name: "basic/create", goal: 5}, at(500), Result{}), nil},
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

func TestTheTableShowsBothWithRatiosAndWhatWasCut(t *testing.T) {
	r := twoSystems(step{name: "basic/create", goal: 5},
		Result{Round: measure.Round{Count: 10_000, Seconds: 2, PerSecond: 5000, ServerMicros: 100}},
		Result{Round: measure.Round{Count: 7_000, Seconds: 70, PerSecond: 100, ServerMicros: 9500}, Cut: true})
	r.Goals = r.goals()
	var out strings.Builder
	r.print(&out)
	text := strings.Join(strings.Fields(out.String()), " ")
	for _, want := range []string{
		"basic/create 3 1000 10000 2.00 5000 100 <7000 70.0 100 9500 50.00 95.00 5",
		"reached 3 control nodes, 1000 nodes: basic/create: at least 5 times the rate: 50.00 times",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
}

func TestRoundsOfAStepAreKeptTogether(t *testing.T) {
	r := &Report{}
	for _, rate := range []float64{100, 300, 200} {
		r.add(1, 1000, step{name: "basic/create"}, "muster", at(rate))
	}
	r.add(1, 5000, step{name: "basic/create"}, "muster", at(50))
	if len(r.Cases) != 2 || len(r.Cases[0].Rounds["muster"]) != 3 || r.Cases[0].Median["muster"].PerSecond != 200 {
		t.Errorf("got %+v, want three rounds with 1000 nodes and their median, apart from those with 5000", r.Cases)
	}
	path := filepath.Join(t.TempDir(), "report.json")
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), `"perSecond": 300`) {
		t.Errorf("the file lacks a round, or %v", err)
	}
}
