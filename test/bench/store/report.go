package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is all that was measured, as it is written to the JSON file.
type Report struct {
	Began       time.Time         `json:"began"`
	Machine     Machine           `json:"machine"`
	Settings    map[string]string `json:"settings"` // flags
	Versions    map[string]string `json:"versions"`
	Systems     []string          `json:"systems"`
	Cases       []CaseResult      `json:"cases,omitempty"`
	LeaderKills map[string]Kills  `json:"leaderKills,omitempty"`
	Memory      map[string]Memory `json:"memory,omitempty"`
	Goals       []Goal            `json:"goals,omitempty"`
}

// Machine is where it was measured. Load averages are of one minute.
type Machine struct {
	CPUs      int     `json:"cpus"`
	Kernel    string  `json:"kernel"`
	LoadBegin float64 `json:"loadBegin"`
	LoadEnd   float64 `json:"loadEnd"`
}

// CaseResult has every round of one case, in order, and for each figure the
// median of the rounds.
type CaseResult struct {
	Name   string             `json:"name"`
	Rounds map[string][]Round `json:"rounds"`
	Median map[string]Round   `json:"median"`
}

// Round is one run of one case. Latencies are in milliseconds; costs are for
// each operation, or for each event delivered. CPU of servers is of all three
// nodes.
type Round struct {
	Seconds      float64 `json:"seconds"`
	Count        uint64  `json:"count"`
	PerSecond    float64 `json:"perSecond"`
	P50          float64 `json:"p50ms"`
	P90          float64 `json:"p90ms"`
	P99          float64 `json:"p99ms"`
	P999         float64 `json:"p999ms"`
	Max          float64 `json:"maxms"`
	ServerMicros float64 `json:"serverCPUus"`
	ClientMicros float64 `json:"clientCPUus"`
	WrittenKiB   float64 `json:"writtenKiB"`
	// BystanderCPUs is how much of a core the idle nodes of the other system took.
	BystanderCPUs float64 `json:"bystanderCPUs"`
	Errors        uint64  `json:"errors,omitempty"`
	FirstError    string  `json:"firstError,omitempty"`
	LeaderChanged bool    `json:"leaderChanged,omitempty"`

	serverUsage usage
	clientCPU   time.Duration
}

// measured fills in what follows from the latencies; Seconds and usage are there.
func (r *Round) measured(l *latencies) {
	r.Count = l.count
	if l.count == 0 || r.Seconds <= 0 {
		return
	}
	each := float64(l.count)
	r.PerSecond = each / r.Seconds
	r.P50, r.P90 = milliseconds(l.quantile(.5)), milliseconds(l.quantile(.9))
	r.P99, r.P999, r.Max = milliseconds(l.quantile(.99)), milliseconds(l.quantile(.999)), milliseconds(l.max)
	r.ServerMicros = float64(r.serverUsage.cpu.Microseconds()) / each
	r.ClientMicros = float64(r.clientCPU.Microseconds()) / each
	r.WrittenKiB = float64(r.serverUsage.written) / 1024 / each
}

// medianRound takes the median of each figure on its own. Counts and errors
// are added up.
func medianRound(rounds []Round) Round {
	of := func(figure func(Round) float64) float64 {
		var values []float64
		for _, r := range rounds {
			values = append(values, figure(r))
		}
		return median(values)
	}
	m := Round{
		Seconds: of(func(r Round) float64 { return r.Seconds }), PerSecond: of(func(r Round) float64 { return r.PerSecond }),
		P50: of(func(r Round) float64 { return r.P50 }), P90: of(func(r Round) float64 { return r.P90 }),
		P99: of(func(r Round) float64 { return r.P99 }), P999: of(func(r Round) float64 { return r.P999 }),
		Max:          of(func(r Round) float64 { return r.Max }),
		ServerMicros: of(func(r Round) float64 { return r.ServerMicros }), ClientMicros: of(func(r Round) float64 { return r.ClientMicros }),
		WrittenKiB: of(func(r Round) float64 { return r.WrittenKiB }), BystanderCPUs: of(func(r Round) float64 { return r.BystanderCPUs }),
	}
	for _, r := range rounds {
		m.Count += r.Count
		m.Errors += r.Errors
		m.FirstError = cmp.Or(m.FirstError, r.FirstError)
		m.LeaderChanged = m.LeaderChanged || r.LeaderChanged
	}
	return m
}

// Kills are trials of killing the leader: milliseconds until the first put.
type Kills struct {
	Trials []float64 `json:"trialsMs"`
	P50    float64   `json:"p50ms"`
	Max    float64   `json:"maxms"`
}

func (k Kills) with(took time.Duration) Kills {
	k.Trials = append(k.Trials, milliseconds(took))
	k.P50, k.Max = median(k.Trials), slices.Max(k.Trials)
	return k
}

// Memory is that of fresh nodes before and after puts.
type Memory struct {
	Keys      int         `json:"keys"`
	Puts      uint64      `json:"puts"`
	PerSecond float64     `json:"perSecond"`
	Idle      []residence `json:"idle"`
	Loaded    []residence `json:"loaded"`
}

// worst is the largest resident set of any node.
func worst(nodes []residence) (rss float64) {
	for _, n := range nodes {
		rss = max(rss, n.RSS)
	}
	return rss
}

// Goal is one that the project has set itself, and whether it was reached.
type Goal struct {
	Goal    string `json:"goal"`
	Found   string `json:"found"`
	Reached bool   `json:"reached"`
}

const goalPuts = 1_000_000

// goals judges what was measured of both systems.
func (r *Report) goals() (goals []Goal) {
	judge := func(reached bool, goal, found string, args ...any) {
		goals = append(goals, Goal{goal, fmt.Sprintf(found, args...), reached})
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
			judge(ours.P50 <= theirs.P50, c.Name+": p50 no more than etcd's", "%s ms against %s", figure(ours.P50), figure(theirs.P50))
		case strings.HasPrefix(c.Name, "put/"):
			judge(rate >= 3, c.Name+": at least 3 times etcd's rate", "%.2f times", rate)
			judge(ours.P99 < theirs.P99, c.Name+": p99 below etcd's", "%s ms against %s", figure(ours.P99), figure(theirs.P99))
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
				row = append(row, mark(fmt.Sprintf("%.0f", m.PerSecond), m), figure(m.P50), figure(m.P99), figure(m.ServerMicros))
			}
			if both {
				a, b := c.Median[r.Systems[0]], c.Median[r.Systems[1]]
				row = append(row, ratio(a.PerSecond, b.PerSecond), ratio(a.P99, b.P99))
			}
			rows = append(rows, row)
		}
		table(out, rows)
		fmt.Fprintln(out, "Medians of the rounds. CPU: of the three nodes, for each operation or event. *: some failed, +: the leader changed.")
	}
	if len(r.LeaderKills) > 0 {
		rows := [][]string{{"kill -9 of the leader", "trials", "p50 ms", "max ms"}}
		for _, s := range r.Systems {
			k := r.LeaderKills[s]
			rows = append(rows, []string{s, fmt.Sprint(len(k.Trials)), fmt.Sprintf("%.0f", k.P50), fmt.Sprintf("%.0f", k.Max)})
		}
		table(out, rows)
	}
	if len(r.Memory) > 0 {
		rows := [][]string{{"memory, largest node", "puts", "puts /s", "idle MiB", "after MiB"}}
		for _, s := range r.Systems {
			m := r.Memory[s]
			rows = append(rows, []string{s, fmt.Sprint(m.Puts), fmt.Sprintf("%.0f", m.PerSecond), fmt.Sprintf("%.0f", worst(m.Idle)), fmt.Sprintf("%.0f", worst(m.Loaded))})
		}
		table(out, rows)
	}
	if len(r.Goals) > 0 {
		fmt.Fprintln(out)
		for _, g := range r.Goals {
			word := "missed "
			if g.Reached {
				word = "reached"
			}
			fmt.Fprintf(out, "%s  %s: %s\n", word, g.Goal, g.Found)
		}
	}
}

// mark says with a sign behind a figure that there is more to know.
func mark(text string, m Round) string {
	if m.LeaderChanged {
		text = "+" + text
	}
	if m.Errors > 0 {
		text = "*" + text
	}
	return text
}

// figure has three significant digits, at most two of them behind the point.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// ratio is of the first system to the second.
func ratio(a, b float64) string {
	if a == 0 || b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", a/b)
}

func table(out io.Writer, rows [][]string) {
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	width := 0
	for _, row := range rows {
		width = max(width, len(row[0]))
	}
	for _, row := range rows {
		// The first column is flush left.
		fmt.Fprintf(w, "%-*s\t%s\t\n", width, row[0], strings.Join(row[1:], "\t"))
	}
	w.Flush()
}

func (r *Report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
