package measure

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Goal is one that the project has set itself, and whether it was reached.
type Goal struct {
	Goal    string `json:"goal"`
	Found   string `json:"found"`
	Reached bool   `json:"reached"`
}

// PrintGoals writes a line for each.
func PrintGoals(out io.Writer, goals []Goal) {
	if len(goals) > 0 {
		fmt.Fprintln(out)
	}
	for _, g := range goals {
		word := "missed "
		if g.Reached {
			word = "reached"
		}
		fmt.Fprintf(out, "%s  %s: %s\n", word, g.Goal, g.Found)
	}
}

// Rate is a round's figure, with signs before it that say that there is more to
// know: * when some operations failed, + when the leader changed.
func Rate(m Round) string {
	text := fmt.Sprintf("%.0f", m.PerSecond)
	if m.PerSecond < 10 {
		text = Figure(m.PerSecond)
	}
	if m.LeaderChanged {
		text = "+" + text
	}
	if m.Errors > 0 {
		text = "*" + text
	}
	return text
}

// Figure has three significant digits, at most two of them behind the point.
func Figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// Ratio is of a to b.
func Ratio(a, b float64) string {
	if a == 0 || b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", a/b)
}

// Table writes rows whose first column is flush left; the first row is the head.
func Table(out io.Writer, rows [][]string) {
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	width := 0
	for _, row := range rows {
		width = max(width, len(row[0]))
	}
	for _, row := range rows {
		fmt.Fprintf(w, "%-*s\t%s\t\n", width, row[0], strings.Join(row[1:], "\t"))
	}
	w.Flush()
}
