package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMedianRoundTakesEachFigureOnItsOwn(t *testing.T) {
	got := medianRound([]Round{
		{Count: 10, PerSecond: 100, P50: 3, P99: 30},
		{Count: 20, PerSecond: 300, P50: 1, P99: 10, Errors: 2, FirstError: "late"},
		{Count: 30, PerSecond: 200, P50: 2, P99: 50, LeaderChanged: true},
	})
	want := Round{Count: 60, PerSecond: 200, P50: 2, P99: 30, Errors: 2, FirstError: "late", LeaderChanged: true}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestCostsAreForEachOperation(t *testing.T) {
	var l latencies
	for range 100 {
		l.record(2 * time.Millisecond)
	}
	r := Round{Seconds: 4, serverUsage: usage{cpu: 50 * time.Millisecond, written: 100 << 12}, clientCPU: 10 * time.Millisecond}
	r.measured(&l)
	if r.PerSecond != 25 || r.ServerMicros != 500 || r.ClientMicros != 100 || r.WrittenKiB != 4 || r.P50 != 2 {
		t.Errorf("got %+v, want 25/s, 500 and 100 µs, 4 KiB, 2 ms", r)
	}
}

func result(name string, ours, theirs Round) CaseResult {
	return CaseResult{Name: name, Median: map[string]Round{"muster": ours, "etcd": theirs}}
}

func TestGoals(t *testing.T) {
	slow, fast := Round{Count: 1, PerSecond: 100, P50: 5, P99: 50}, Round{Count: 1, PerSecond: 300, P50: 4, P99: 20}
	for _, c := range []struct {
		name   string
		report Report
		want   []bool
	}{
		{"one client is judged by latency", Report{Cases: []CaseResult{result("put/256B/1", fast, slow)}}, []bool{true}},
		{"one client, slower", Report{Cases: []CaseResult{result("put/256B/1", slow, fast)}}, []bool{false}},
		{"many clients by rate and p99", Report{Cases: []CaseResult{result("put/256B/64", fast, slow)}}, []bool{true, true}},
		{"not quite three times", Report{Cases: []CaseResult{result("put/256B/64", Round{Count: 1, PerSecond: 299, P99: 50}, slow)}}, []bool{false, false}},
		{"linearizable reads", Report{Cases: []CaseResult{result("get/linearizable/1", fast, slow)}}, []bool{true}},
		{"local reads have no goal", Report{Cases: []CaseResult{result("get/local/1", slow, fast)}}, nil},
		{"one system alone is not compared", Report{Cases: []CaseResult{{Name: "put/256B/64", Median: map[string]Round{"muster": fast}}}}, nil},
		{"kills", Report{LeaderKills: map[string]Kills{"muster": Kills{}.with(300 * time.Millisecond).with(1100 * time.Millisecond).with(200 * time.Millisecond)}}, []bool{true, false}},
		{"memory", Report{Memory: map[string]Memory{
			"muster": {Puts: goalPuts, Loaded: []residence{{RSS: 90}, {RSS: 100}}},
			"etcd":   {Puts: goalPuts, Loaded: []residence{{RSS: 300}, {RSS: 200}}},
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
			result("put/256B/64", Round{Count: 1, PerSecond: 9000, P50: 6.789, P99: 20, ServerMicros: 123.4, Errors: 3}, Round{Count: 1, PerSecond: 3000, P50: 16, P99: 80, LeaderChanged: true}),
			{Name: "watch/paced/100", Median: map[string]Round{"etcd": {Count: 1, PerSecond: 10}}},
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
	r := Report{Systems: []string{"etcd"}, Cases: []CaseResult{{Name: "x", Rounds: map[string][]Round{"etcd": {{PerSecond: 7}}}}}}
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
