// Command report turns what ginkgo wrote about runs of upstream's suite into the
// page that says how conformant Muster is.
//
//	report -reasons FILE -version V -page docs/conformance.md RUN.json...
//
// It writes the page anew, but keeps what the page says of areas that these runs
// did not cover: each area's row tells the version that it was run with.
//
// A spec that failed and has no reason in the file is listed as unexplained. A
// reason for a spec that passed is an error: the file would go stale unseen.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

func main() {
	reasons := flag.String("reasons", "", "file of reasons: lines of KEY: REASON under regular expressions, see README.md")
	version := flag.String("version", "", "what was tested")
	page := flag.String("page", "", "the page to bring up to date")
	flag.Parse()
	if err := run(*page, *reasons, *version, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

// spec is one spec's outcome in a run.
type spec struct {
	name    string
	area    string // sig-auth
	state   string // passed, failed, timedout, …
	message string // of its failure
}

// run brings the page up to date. A reason that no failure needs is told after
// the page is written.
func run(page, reasonsFile, version string, runs []string) error {
	specs := map[string]spec{}
	for _, file := range runs {
		found, err := readRun(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, s := range found {
			specs[s.name] = s // a later run counts
		}
	}
	if len(specs) == 0 {
		return errors.New("no spec ran")
	}
	reasons, err := readReasons(reasonsFile)
	if err != nil {
		return err
	}
	areas, err := readPage(page)
	if err != nil {
		return err
	}
	ran := slices.SortedFunc(maps.Values(specs), func(a, b spec) int { return strings.Compare(a.name, b.name) })
	stale := add(areas, version, ran, reasons)
	if err := write(page, areas); err != nil {
		return err
	}
	return stale
}

// readRun reads a report of ginkgo (--json-report).
func readRun(file string) ([]spec, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var suites []struct {
		SpecReports []struct {
			ContainerHierarchyTexts []string
			LeafNodeText            string
			LeafNodeType            string
			State                   string
			Failure                 struct{ Message string }
		}
	}
	if err := json.Unmarshal(data, &suites); err != nil {
		return nil, err
	}
	var specs []spec
	for _, suite := range suites {
		for _, r := range suite.SpecReports {
			if r.LeafNodeType != "It" || r.State == "skipped" || r.State == "pending" {
				continue
			}
			name := strings.Join(append(r.ContainerHierarchyTexts, r.LeafNodeText), " ")
			message, _, _ := strings.Cut(strings.TrimSpace(r.Failure.Message), "\n")
			specs = append(specs, spec{name: name, area: areaOf(name), state: r.State, message: message})
		}
	}
	return specs, nil
}

var area = regexp.MustCompile(`^\[(sig-[a-z-]+)\]`)

func areaOf(name string) string {
	if found := area.FindStringSubmatch(name); found != nil {
		return found[1]
	}
	return "other"
}

// reason explains the specs whose name matches.
type reason struct {
	match *regexp.Regexp
	text  string
	used  bool
}

// readReasons reads pairs of lines: a regular expression at the margin, and below
// it, indented, why the specs that match fail. Lines with # are comments.
func readReasons(file string) ([]*reason, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var reasons []*reason
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		switch {
		case strings.TrimSpace(line) == "" || line[0] == '#':
		case line[0] != ' ' && line[0] != '\t':
			match, err := regexp.Compile(line)
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", file, n, err)
			}
			reasons = append(reasons, &reason{match: match})
		case len(reasons) == 0:
			return nil, fmt.Errorf("%s:%d: a reason without an expression above it", file, n)
		default:
			last := reasons[len(reasons)-1]
			last.text = strings.TrimSpace(last.text + " " + strings.TrimSpace(line))
		}
	}
	return reasons, lines.Err()
}

// add puts the outcomes into their areas, in place of what was known of those.
func add(areas map[string]*result, version string, specs []spec, reasons []*reason) error {
	for _, s := range specs {
		areas[s.area] = &result{version: version}
	}
	for _, s := range specs {
		r := areas[s.area]
		r.run++
		if s.state == "passed" {
			r.passed++
			continue
		}
		why := "**not explained yet**"
		for _, reason := range reasons {
			if reason.match.MatchString(s.name) {
				why, reason.used = reason.text, true
				break
			}
		}
		r.failures = append(r.failures, fmt.Sprintf("| %s | %s | %s |", cell(s.name), cell(why), cell(s.state+": "+s.message)))
	}
	var stale []error
	for _, r := range reasons {
		ran := slices.ContainsFunc(specs, func(s spec) bool { return r.match.MatchString(s.name) })
		if ran && !r.used {
			stale = append(stale, fmt.Errorf("every spec that matches %q passed: take its reason out", r.match))
		}
	}
	return errors.Join(stale...)
}

// cell makes text fit into a table.
func cell(text string) string {
	text = strings.NewReplacer("|", `\|`, "\n", " ", "<", "&lt;").Replace(text)
	if runes := []rune(text); len(runes) > 240 {
		text = string(runes[:240]) + " …"
	}
	return text
}
