package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
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
	Cases    []*CaseResult     `json:"cases,omitempty"`
	Goals    []measure.Goal    `json:"goals,omitempty"`
}

// Result is one run of one case: so many pods were bound, or became ready.
// Latencies are from the beginning, so that P50 is when half of them were.
type Result struct {
	measure.Round
	Cut     bool     `json:"cut,omitempty"` // the case took too long: the rest is not in it
	Figures []Figure `json:"figures,omitempty"`
}

// Figure is another thing that a case finds, in the unit that its name ends with.
type Figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Most  float64 `json:"most,omitempty"` // what Muster's is to be at most; 0: no goal
}

func (r Result) String() string {
	var figures []string
	for _, f := range r.Figures {
		figures = append(figures, f.Name+": "+measure.Figure(f.Value))
	}
	if r.Count == 0 && len(figures) > 0 {
		return strings.Join(figures, "; ")
	}
	text := fmt.Sprintf("%d pods in %.2f s, %s/s, CPU %s µs each and %s of the clients", r.Count, r.Seconds, measure.Rate(r.Round), measure.Figure(r.ServerMicros), measure.Figure(r.ClientMicros))
	if r.Cut {
		text += "; it was cut short"
	}
	return strings.Join(append([]string{text}, figures...), "; ")
}

// CaseResult has every round of one case, in order, and for each figure the
// median of the rounds.
type CaseResult struct {
	Servers int                 `json:"servers"`
	Nodes   int                 `json:"nodes"`
	Name    string              `json:"name"`
	Goal    float64             `json:"goal,omitempty"` // of the rate, as a multiple
	Rounds  map[string][]Result `json:"rounds"`
	Median  map[string]Result   `json:"median"`
}

// add notes a round of a case.
func (r *Report) add(servers, nodes int, s step, system string, result Result) {
	k := r.result(servers, nodes, s)
	k.Rounds[system] = append(k.Rounds[system], result)
	var median Result
	var rounds []measure.Round
	for _, one := range k.Rounds[system] {
		rounds = append(rounds, one.Round)
		median.Cut = median.Cut || one.Cut
	}
	median.Round = measure.MedianRound(rounds)
	for i, f := range result.Figures {
		var values []float64
		for _, one := range k.Rounds[system] {
			if i < len(one.Figures) {
				values = append(values, one.Figures[i].Value)
			}
		}
		f.Value = measure.Median(values)
		median.Figures = append(median.Figures, f)
	}
	k.Median[system] = median
}

func (r *Report) result(servers, nodes int, s step) *CaseResult {
	for _, k := range r.Cases {
		if k.Servers == servers && k.Nodes == nodes && k.Name == s.name {
			return k
		}
	}
	k := &CaseResult{Servers: servers, Nodes: nodes, Name: s.name, Goal: s.goal, Rounds: map[string][]Result{}, Median: map[string]Result{}}
	r.Cases = append(r.Cases, k)
	return k
}

// goals judges what was measured of both systems.
func (r *Report) goals() (goals []measure.Goal) {
	for _, c := range r.Cases {
		ours, theirs := c.Median["muster"], c.Median["kubernetes"]
		for _, f := range ours.Figures {
			if f.Most > 0 {
				goals = append(goals, measure.Goal{
					Goal:  fmt.Sprintf("%d control nodes, %d nodes: %s: %s: at most %s", c.Servers, c.Nodes, c.Name, f.Name, measure.Figure(f.Most)),
					Found: measure.Figure(f.Value), Reached: f.Value <= f.Most,
				})
			}
		}
		if c.Goal == 0 || ours.Count == 0 || theirs.Count == 0 {
			continue
		}
		times := ours.PerSecond / theirs.PerSecond
		goals = append(goals, measure.Goal{
			Goal:  fmt.Sprintf("%d control nodes, %d nodes: %s: at least %.0f times the rate", c.Servers, c.Nodes, c.Name, c.Goal),
			Found: fmt.Sprintf("%.2f times", times), Reached: times >= c.Goal,
		})
	}
	return goals
}

// print writes the tables that people read.
func (r *Report) print(out io.Writer) {
	for _, s := range r.Systems {
		fmt.Fprintf(out, "%s %s\n", s, r.Versions[s])
	}
	fmt.Fprintf(out, "%d CPUs, Linux %s; load average %.2f before, %.2f after\n", r.Machine.CPUs, r.Machine.Kernel, r.Machine.LoadBegin, r.Machine.LoadEnd)
	r.printCases(out)
	r.printFigures(out)
	measure.PrintGoals(out, r.Goals)
}

func (r *Report) printCases(out io.Writer) {
	if len(r.Cases) == 0 {
		return
	}
	head := []string{"case", "control nodes", "nodes"}
	for _, system := range r.Systems {
		head = append(head, system+" pods", "s", "/s", "CPU µs")
	}
	both := len(r.Systems) == 2
	if both {
		head = append(head, "rate ×", "CPU ÷", "goal")
	}
	rows := [][]string{head}
	for _, c := range r.Cases {
		if c.Median[r.Systems[0]].Count == 0 && len(c.Median[r.Systems[0]].Figures) > 0 {
			continue
		}
		row := []string{c.Name, fmt.Sprint(c.Servers), fmt.Sprint(c.Nodes)}
		for _, system := range r.Systems {
			m, ok := c.Median[system]
			if !ok {
				row = append(row, "-", "-", "-", "-")
				continue
			}
			pods := fmt.Sprint(m.Count / uint64(len(c.Rounds[system])))
			if m.Cut {
				pods = "<" + pods
			}
			row = append(row, pods, measure.Figure(m.Seconds), measure.Rate(m.Round), measure.Figure(m.ServerMicros))
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
	fmt.Fprintln(out, "Medians of the rounds. CPU: of all servers together, for each pod. <: cut short after --limit; the rate is that of what was done until then.")
}

func (r *Report) printFigures(out io.Writer) {
	rows := [][]string{append([]string{"figure", "control nodes", "nodes"}, r.Systems...)}
	both := len(r.Systems) == 2
	if both {
		rows[0] = append(rows[0], "ratio", "goal")
	}
	for _, c := range r.Cases {
		for i, f := range c.Median[r.Systems[0]].Figures {
			row := []string{c.Name + ": " + f.Name, fmt.Sprint(c.Servers), fmt.Sprint(c.Nodes)}
			var values []float64
			for _, system := range r.Systems {
				value, text := 0.0, "-"
				if found := c.Median[system].Figures; i < len(found) {
					value, text = found[i].Value, measure.Figure(found[i].Value)
				}
				values, row = append(values, value), append(row, text)
			}
			if both {
				goal := ""
				if f.Most > 0 {
					goal = "≤ " + measure.Figure(f.Most)
				}
				row = append(row, measure.Ratio(values[0], values[1]), goal)
			}
			rows = append(rows, row)
		}
	}
	if len(rows) > 1 {
		measure.Table(out, rows)
	}
}

func (r *Report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
