package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/musterhq/muster/test/bench/measure"
)

// Report is all that was measured, as it is written to the JSON file.
type Report struct {
	Began    time.Time         `json:"began"`
	Machine  measure.Machine   `json:"machine"`
	Settings map[string]string `json:"settings"` // flags
	Versions map[string]string `json:"versions"`
	Systems  []string          `json:"systems"`
	Sizes    []*Size           `json:"sizes"`
	Goals    []measure.Goal    `json:"goals,omitempty"`
}

// Size is what was measured of clusters of so many nodes.
type Size struct {
	Nodes  int                 `json:"nodes"`
	Cases  []*CaseResult       `json:"cases,omitempty"`
	Memory map[string][]Memory `json:"memory,omitempty"` // each round's
}

// CaseResult has every round of one case, in order, and for each figure the
// median of the rounds.
type CaseResult struct {
	Name   string                     `json:"name"`
	Goal   float64                    `json:"goal,omitempty"` // of the rate, as a multiple
	Rounds map[string][]measure.Round `json:"rounds"`
	Median map[string]measure.Round   `json:"median"`
}

// add notes a round of a case.
func (s *Size) add(c aCase, system string, round measure.Round) {
	result := s.result(c)
	result.Rounds[system] = append(result.Rounds[system], round)
	result.Median[system] = measure.MedianRound(result.Rounds[system])
}

func (s *Size) result(c aCase) *CaseResult {
	for _, r := range s.Cases {
		if r.Name == c.name {
			return r
		}
	}
	r := &CaseResult{Name: c.name, Goal: c.goal, Rounds: map[string][]measure.Round{}, Median: map[string]measure.Round{}}
	s.Cases = append(s.Cases, r)
	return r
}

// memoryFigure is one that is judged or shown: ours must be at most so much of
// theirs, or at most so much.
type memoryFigure struct {
	name  string
	of    func(Memory) float64
	share float64 // of the other system's; 0: no goal
	most  float64 // whatever the other system's; 0: no goal
}

var memoryFigures = []memoryFigure{
	{name: "idle RSS MiB", of: func(m Memory) float64 { return worst(m.Idle, rss) }, share: 1. / 3},
	{name: "idle anonymous MiB", of: func(m Memory) float64 { return worst(m.Idle, anon) }},
	{name: "loaded RSS MiB", of: func(m Memory) float64 { return worst(m.Loaded, rss) }, share: 1. / 4},
	{name: "loaded anonymous MiB", of: func(m Memory) float64 { return worst(m.Loaded, anon) }},
	{name: "peak RSS MiB", of: func(m Memory) float64 { return worst(m.Loaded, peak) }},
	{name: "start to ready ms", of: func(m Memory) float64 { return m.Ready }},
	{name: "restart to ready ms", of: func(m Memory) float64 { return m.Restart }, most: 500},
}

// median of a figure over the rounds of a system; 0 if there are none.
func (s *Size) median(f memoryFigure, system string) float64 {
	var values []float64
	for _, m := range s.Memory[system] {
		values = append(values, f.of(m))
	}
	return measure.Median(values)
}

// goals judges what was measured of both systems.
func (r *Report) goals() (goals []measure.Goal) {
	judge := func(reached bool, goal, found string, args ...any) {
		goals = append(goals, measure.Goal{Goal: goal, Found: fmt.Sprintf(found, args...), Reached: reached})
	}
	for _, s := range r.Sizes {
		where := fmt.Sprintf("%d nodes: ", s.Nodes)
		if s.Nodes == 1 {
			where = "1 node: "
		}
		for _, c := range s.Cases {
			ours, theirs := c.Median["muster"], c.Median["kubernetes"]
			if c.Goal == 0 || ours.Count == 0 || theirs.Count == 0 {
				continue
			}
			times := ours.PerSecond / theirs.PerSecond
			judge(times >= c.Goal, fmt.Sprintf("%s%s: at least %.0f times the rate", where, c.Name, c.Goal), "%.2f times", times)
		}
		for _, f := range memoryFigures {
			ours, theirs := s.median(f, "muster"), s.median(f, "kubernetes")
			// A cluster of one is ready when its first start is over; more of
			// them have joined one by one.
			most := f.most
			if f.name == "start to ready ms" && s.Nodes == 1 {
				most = 500
			}
			switch {
			case ours == 0:
			case most > 0:
				judge(ours <= most, fmt.Sprintf("%s%s: at most %.0f", where, f.name, most), "%.0f", ours)
			case f.share > 0 && theirs > 0:
				judge(ours <= theirs*f.share, fmt.Sprintf("%s%s: at most 1/%.0f", where, f.name, 1/f.share), "%.0f against %.0f, %.2f", ours, theirs, ours/theirs)
			}
		}
	}
	return goals
}

// print writes the tables that people read.
func (r *Report) print(out io.Writer) {
	for _, s := range r.Systems {
		fmt.Fprintf(out, "%s %s\n", s, r.Versions[s])
	}
	fmt.Fprintf(out, "%d CPUs, Linux %s; load average %.2f before, %.2f after\n", r.Machine.CPUs, r.Machine.Kernel, r.Machine.LoadBegin, r.Machine.LoadEnd)
	for _, s := range r.Sizes {
		fmt.Fprintf(out, "\nNodes: %d\n", s.Nodes)
		r.printCases(out, s)
		r.printMemory(out, s)
	}
	measure.PrintGoals(out, r.Goals)
}

func (r *Report) printCases(out io.Writer, s *Size) {
	if len(s.Cases) == 0 {
		return
	}
	head := []string{"case"}
	for _, system := range r.Systems {
		head = append(head, system+" /s", "p50 ms", "p99 ms", "CPU µs")
	}
	both := len(r.Systems) == 2
	if both {
		head = append(head, "rate ×", "CPU ÷", "goal")
	}
	rows := [][]string{head}
	for _, c := range s.Cases {
		row := []string{c.Name}
		for _, system := range r.Systems {
			m, ok := c.Median[system]
			if !ok {
				row = append(row, "-", "-", "-", "-")
				continue
			}
			row = append(row, measure.Rate(m), measure.Figure(m.P50), measure.Figure(m.P99), measure.Figure(m.ServerMicros))
		}
		if both {
			a, b := c.Median[r.Systems[0]], c.Median[r.Systems[1]]
			goal := ""
			if c.Goal > 0 {
				goal = fmt.Sprintf("%.0f", c.Goal)
			}
			row = append(row, measure.Ratio(a.PerSecond, b.PerSecond), measure.Ratio(b.ServerMicros, a.ServerMicros), goal)
		}
		rows = append(rows, row)
	}
	measure.Table(out, rows)
	fmt.Fprintln(out, "Medians of the rounds. A list is the whole of it, in however many pages. CPU: of all servers together, for each operation or event. *: some failed.")
}

func (r *Report) printMemory(out io.Writer, s *Size) {
	if len(s.Memory) == 0 {
		return
	}
	head := []string{"largest node"}
	head = append(head, r.Systems...)
	both := len(r.Systems) == 2
	if both {
		head = append(head, "ratio", "goal")
	}
	rows := [][]string{head}
	for _, f := range memoryFigures {
		row := []string{f.name}
		for _, system := range r.Systems {
			row = append(row, measure.Figure(s.median(f, system)))
		}
		if both {
			goal := ""
			switch {
			case f.share > 0:
				goal = fmt.Sprintf("%.2f", f.share)
			case f.most > 0:
				goal = fmt.Sprintf("%.0f ms", f.most)
			}
			row = append(row, measure.Ratio(s.median(f, r.Systems[0]), s.median(f, r.Systems[1])), goal)
		}
		rows = append(rows, row)
	}
	measure.Table(out, rows)
}

func (r *Report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
