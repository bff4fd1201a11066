package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/test/bench/measure"
	"github.com/musterhq/muster/test/bench/process"
)

// Report is all that was measured, as it is written to the JSON file.
type Report struct {
	Began           time.Time `json:"began"`
	measure.Machine `json:"machine"`
	Settings        map[string]string `json:"settings"` // flags
	Versions        map[string]string `json:"versions"`
	Systems         []string          `json:"systems"`
	Cases           []CaseResult      `json:"cases,omitempty"`
	LeaderKills     map[string]Kills  `json:"leaderKills,omitempty"`
	Memory          map[string]Memory `json:"memory,omitempty"`
	Goals           []measure.Goal    `json:"goals,omitempty"`
}

// CaseResult has every round of one case, in order, and for each figure the
// median of the rounds.
type CaseResult struct {
	Name   string                     `json:"name"`
	Rounds map[string][]measure.Round `json:"rounds"`
	Median map[string]measure.Round   `json:"median"`
}

// Kills are trials of killing the leader: milliseconds until the first put.
type Kills struct {
	Trials []float64 `json:"trialsMs"`
	P50    float64   `json:"p50ms"`
	Max    float64   `json:"maxms"`
}

func (k Kills) with(took time.Duration) Kills {
	k.Trials = append(k.Trials, measure.Milliseconds(took))
	k.P50, k.Max = measure.Median(k.Trials), slices.Max(k.Trials)
	return k
}

// Memory is that of fresh nodes before and after puts.
type Memory struct {
	Keys      int                 `json:"keys"`
	Puts      uint64              `json:"puts"`
	PerSecond float64             `json:"perSecond"`
	Idle      []process.Residence `json:"idle"`
	Loaded    []process.Residence `json:"loaded"`
}

// worst is the largest resident set of any node.
func worst(nodes []process.Residence) (rss float64) {
	for _, n := range nodes {
		rss = max(rss, n.RSS)
	}
	return rss
}

const goalPuts = 1_000_000

// goals judges what was measured of both systems.
func (r *Report) goals() (goals []measure.Goal) {
	judge := func(reached bool, goal, found string, args ...any) {
		goals = append(goals, measure.Goal{Goal: goal, Found: fmt.Sprintf(found, args...), Reached: reached})
	}
	for _, c := range r.Cases {
		ours, both := c.Median["muster"]
		theirs, also := c.Median["etcd"]
		if !both || !also || ours.Count == 0 || theirs.Count == 0 {
			continue
		}
		rate := ours.PerSecond / theirs.PerSecond
		switch {
		case strings.HasPrefix(c.Name, "put/") && strings.HasSuffix(c.Name, "/1"):
			judge(ours.P50 <= theirs.P50, c.Name+": p50 no more than etcd's", "%s ms against %s", measure.Figure(ours.P50), measure.Figure(theirs.P50))
		case strings.HasPrefix(c.Name, "put/"):
			judge(rate >= 3, c.Name+": at least 3 times etcd's rate", "%.2f times", rate)
			judge(ours.P99 < theirs.P99, c.Name+": p99 below etcd's", "%s ms against %s", measure.Figure(ours.P99), measure.Figure(theirs.P99))
		case strings.HasPrefix(c.Name, "get/linearizable/"):
			judge(rate >= 3, c.Name+": at least 3 times etcd's rate", "%.2f times", rate)
		}
	}
	if k := r.LeaderKills["muster"]; len(k.Trials) > 0 {
		judge(k.P50 <= 400, "kill: p50 at most 400 ms", "%.0f ms", k.P50)
		judge(k.Max <= 1000, "kill: never more than 1 s", "%.0f ms", k.Max)
	}
	ours, theirs := r.Memory["muster"], r.Memory["etcd"]
	if ours.Puts > 0 && theirs.Puts > 0 {
		goal := fmt.Sprintf("memory: after %d puts at most a third of etcd's", ours.Puts)
		if ours.Puts < goalPuts {
			goal += fmt.Sprintf(" (the goal is for %d)", goalPuts)
		}
		judge(worst(ours.Loaded)*3 <= worst(theirs.Loaded), goal, "%.0f MiB against %.0f", worst(ours.Loaded), worst(theirs.Loaded))
	}
	return goals
}

// print writes the tables that people read.
func (r *Report) print(out io.Writer) {
	for _, s := range r.Systems {
		fmt.Fprintf(out, "%s %s\n", s, r.Versions[s])
	}
	fmt.Fprintf(out, "%d CPUs, Linux %s; load average %.2f before, %.2f after\n", r.Machine.CPUs, r.Machine.Kernel, r.Machine.LoadBegin, r.Machine.LoadEnd)
	both := len(r.Systems) == 2
	if len(r.Cases) > 0 {
		head := []string{"case"}
		for _, s := range r.Systems {
			head = append(head, s+" /s", "p50 ms", "p99 ms", "CPU µs")
		}
		if both {
			head = append(head, "rate ×", "p99 ×")
		}
		rows := [][]string{head}
		for _, c := range r.Cases {
			row := []string{c.Name}
			for _, s := range r.Systems {
				m, ok := c.Median[s]
				if !ok {
					row = append(row, "-", "-", "-", "-")
					continue
				}
				row = append(row, measure.Rate(m), measure.Figure(m.P50), measure.Figure(m.P99), measure.Figure(m.ServerMicros))
			}
			if both {
				a, b := c.Median[r.Systems[0]], c.Median[r.Systems[1]]
				row = append(row, measure.Ratio(a.PerSecond, b.PerSecond), measure.Ratio(a.P99, b.P99))
			}
			rows = append(rows, row)
		}
		measure.Table(out, rows)
		fmt.Fprintln(out, "Medians of the rounds. CPU: of the three nodes, for each operation or event. *: some failed, +: the leader changed.")
	}
	if len(r.LeaderKills) > 0 {
		rows := [][]string{{"kill -9 of the leader", "trials", "p50 ms", "max ms"}}
		for _, s := range r.Systems {
			k := r.LeaderKills[s]
			rows = append(rows, []string{s, fmt.Sprint(len(k.Trials)), fmt.Sprintf("%.0f", k.P50), fmt.Sprintf("%.0f", k.Max)})
		}
		measure.Table(out, rows)
	}
	if len(r.Memory) > 0 {
		rows := [][]string{{"memory, largest node", "puts", "puts /s", "idle MiB", "after MiB"}}
		for _, s := range r.Systems {
			m := r.Memory[s]
			rows = append(rows, []string{s, fmt.Sprint(m.Puts), fmt.Sprintf("%.0f", m.PerSecond), fmt.Sprintf("%.0f", worst(m.Idle)), fmt.Sprintf("%.0f", worst(m.Loaded))})
		}
		measure.Table(out, rows)
	}
	measure.PrintGoals(out, r.Goals)
}

func (r *Report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
