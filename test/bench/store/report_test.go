package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/test/bench/measure"
	"github.com/musterhq/muster/test/bench/process"
)

func result(name string, ours, theirs measure.Round) CaseResult {
	return CaseResult{Name: name, Median: map[string]measure.Round{"muster": ours, "etcd": theirs}}
}

func TestGoals(t *testing.T) {
	slow, fast := measure.Round{Count: 1, PerSecond: 100, P50: 5, P99: 50}, measure.Round{Count: 1, PerSecond: 300, P50: 4, P99: 20}
	for _, c := range []struct {
		name   string
		report Report
		want   []bool
	}{
		{"one client is judged by latency", Report{Cases: []CaseResult{result("put/256B/1", fast, slow)}}, []bool{true}},
		{"one client, slower", Report{Cases: []CaseResult{result("put/256B/1", slow, fast)}}, []bool{false}},
		{"many clients by rate and p99", Report{Cases: []CaseResult{result("put/256B/64", fast, slow)}}, []bool{true, true}},
		{"not quite three times", Report{Cases: []CaseResult{result("put/256B/64", measure.Round{Count: 1, PerSecond: 299, P99: 50}, slow)}}, []bool{false, false}},
		{"linearizable reads", Report{Cases: []CaseResult{result("get/linearizable/1", fast, slow)}}, []bool{true}},
		{"local reads have no goal", Report{Cases: []CaseResult{result("get/local/1", slow, fast)}}, nil},
		{"one system alone is not compared", Report{Cases: []CaseResult{{Name: "put/256B/64", Median: map[string]measure.Round{"muster": fast}}}}, nil},
		{"kills", Report{LeaderKills: map[string]Kills{"muster": Kills{}.with(300 * time.Millisecond).with(1100 * time.Millisecond).with(200 * time.Millisecond)}}, []bool{true, false}},
		{"memory", Report{Memory: map[string]Memory{
			"muster": {Puts: goalPuts, Loaded: []process.Residence{{RSS: 90}, {RSS: 100}}},
			"etcd":   {Puts: goalPuts, Loaded: []process.Residence{{RSS: 300}, {RSS: 200}}},
		}}, []bool{true}},
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

func TestTheTableShowsBothAndWhatWentWrong(t *testing.T) {
	r := Report{
		Systems:  []string{"muster", "etcd"},
		Versions: map[string]string{"muster": "v1", "etcd": "3"},
		Cases: []CaseResult{
			result("put/256B/64", measure.Round{Count: 1, PerSecond: 9000, P50: 6.789, P99: 20, ServerMicros: 123.4, Errors: 3}, measure.Round{Count: 1, PerSecond: 3000, P50: 16, P99: 80, LeaderChanged: true}),
			{Name: "watch/paced/100", Median: map[string]measure.Round{"etcd": {Count: 1, PerSecond: 10}}},
		},
		LeaderKills: map[string]Kills{"muster": Kills{}.with(123 * time.Millisecond), "etcd": Kills{}.with(1500 * time.Millisecond)},
	}
	var out strings.Builder
	r.print(&out)
	for _, want := range []string{
		"put/256B/64 *9000 6.79 20.0 123 +3000 16.0 80.0 0.00 3.00 0.25",
		"watch/paced/100 - - - - 10",
		"muster 1 123 123",
	} {
		if !strings.Contains(strings.Join(strings.Fields(out.String()), " "), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
}

func TestTheReportCanBeReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	r := Report{Systems: []string{"etcd"}, Cases: []CaseResult{{Name: "x", Rounds: map[string][]measure.Round{"etcd": {{PerSecond: 7}}}}}}
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if got := back.Cases[0].Rounds["etcd"][0].PerSecond; got != 7 {
		t.Errorf("got %v, want 7", got)
	}
}
