package transcripts

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
)

// masks are what differs each time, in the order in which it is replaced.
var masks = []struct {
	what *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "<uid>"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| [+-]\d{4})`), "<time>"},
	{regexp.MustCompile(`[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d [+-]\d{4}`), "<time>"},
	{regexp.MustCompile(`(resourceVersion\\?"?[:=] ?\\?"?)\d+`), "${1}<rv>"},
	{regexp.MustCompile(`(Resource Version: +)\d+`), "${1}<rv>"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "<server>"},
	{regexp.MustCompile(`\b10\.4[23]\.\d+\.\d+\b`), "<ip>"},
	{regexp.MustCompile(`(\d+:)3[0-2]\d{3}(/[A-Z]+)`), "${1}<node port>${2}"},
	{regexp.MustCompile(`((?:healthCheckN|n)odePort"?: ?)3[0-2]\d{3}`), "${1}<node port>"},
	{regexp.MustCompile(`(NodePort: +\S+ +)3[0-2]\d{3}`), "${1}<node port>"},
	{regexp.MustCompile(`\b([a-z0-9][a-z0-9.-]*-)[bcdfghjklmnpqrstvwxz2456789]{5}\b`), "${1}<random>"},
	{regexp.MustCompile(`\.[0-9a-f]{16}\b`), ".<hex>"},
	{regexp.MustCompile(`hollow://[0-9a-z-]+`), "hollow://<id>"},
	{regexp.MustCompile(`X509SHA256=[0-9a-f]{64}`), "X509SHA256=<hash>"},
	{regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]+`), "<token>"},
	{regexp.MustCompile(`/tmp/(LIVE|MERGED|kubectl-edit)-\d+`), "/tmp/$1-<random>"},
	{regexp.MustCompile(`/tmp/Test\w+/\d+/`), "~/"}, // the terminal's home
	{regexp.MustCompile(`(Age: +)` + age), "${1}<age>"},
	{regexp.MustCompile(`(?m)^(\S+(?: {3,}\S+)+ {3,})` + age + `$`), "${1}<age>"}, // without headers
	{regexp.MustCompile(`\(` + age + ` ago\)`), "(<age> ago)"},
	{regexp.MustCompile(`\((x\d+ over )` + age + `\)`), "($1<age>)"},
}

const age = `(?:\d+[ywdhms])+`

// varied are columns of tables whose width differs each time, which therefore
// are laid out anew.
var varied = []string{"AGE", "TIMEADDED", "LAST SEEN", "DURATION", "LAST SCHEDULE", "IP", "CLUSTER-IP", "PORT(S)", "Age", "LastHeartbeatTime"}

// timed are those of them that say how long something has been.
var timed = []string{"AGE", "TIMEADDED", "LAST SEEN", "DURATION", "LAST SCHEDULE", "Age"}

var (
	columns = regexp.MustCompile(`\S+(?: \S+)*`)
	ages    = regexp.MustCompile(`^(` + age + `|<invalid>|<unknown>)( \(x\d+ over ` + age + `\))?$`)
)

// mask replaces what differs each time.
func mask(text string) string {
	lines := strings.Split(text, "\n")
	var out []string
	for len(lines) > 0 {
		end := 1
		header := columns.FindAllString(lines[0], -1)
		if len(header) > 1 && slices.ContainsFunc(header, func(name string) bool { return slices.Contains(varied, name) }) {
			for end < len(lines) && lines[end] != "" && !strings.HasPrefix(lines[end], "! ") && indent(lines[end]) == indent(lines[0]) {
				end++
			}
			out = append(out, maskTable(lines[:end])...)
		} else {
			out = append(out, maskLine(lines[0]))
		}
		lines = lines[end:]
	}
	return strings.Join(out, "\n")
}

func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

func maskLine(line string) string {
	for _, m := range masks {
		line = m.what.ReplaceAllString(line, m.with)
	}
	return line
}

// maskTable takes a table apart by where the names of its columns begin.
func maskTable(lines []string) []string {
	at := columns.FindAllStringIndex(lines[0], -1)
	indent := lines[0][:at[0][0]]
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, line := range lines {
		var cells []string
		for c := range at {
			from, to := at[c][0], len(line)
			if c+1 < len(at) {
				to = min(to, at[c+1][0])
			}
			cell := ""
			if from < to {
				cell = strings.TrimSpace(line[from:to])
			}
			if name := lines[0][at[c][0]:at[c][1]]; slices.Contains(timed, name) && ages.MatchString(cell) {
				cell = "<age>"
			}
			cells = append(cells, maskLine(cell))
		}
		_, _ = w.Write([]byte(strings.Join(cells, "\t") + "\n"))
	}
	_ = w.Flush()
	out := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	for i := range out {
		out[i] = strings.TrimRight(indent+out[i], " ")
	}
	return out
}

func TestMaskKeepsWhatDoesNotDiffer(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"NAME   DATA   AGE\nx      1      12s\nyy     0      3d4h", "NAME   DATA   AGE\nx      1      <age>\nyy     0      <age>"},
		{"NAME   AGE    LABELS\nx      100s   a=b\n\nNAME   DATA\nz      1", "NAME   AGE     LABELS\nx      <age>   a=b\n\nNAME   DATA\nz      1"},
		{"web-x7k2p web-plane", "web-<random> web-plane"},
		{`{"resourceVersion":"12","uid":"0dc4e6c2-6a0e-4f24-9a6c-2f6c0f6ac1aa"}`, `{"resourceVersion":"<rv>","uid":"<uid>"}`},
		{"  Type    Reason  Age   From\n  ----    ------  ----  ----\n  Normal  Pulled  3s    agent", "  Type     Reason   Age     From\n  ----     ------   ----    ----\n  Normal   Pulled   <age>   agent"},
		{"PORT(S)        AGE\n80:30123/TCP   3s", "PORT(S)              AGE\n80:<node port>/TCP   <age>"},
	} {
		if got := mask(c.text); got != c.want {
			t.Errorf("%q became %q, want %q", c.text, got, c.want)
		}
	}
}
