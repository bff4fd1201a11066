package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const run1 = `[{"SpecReports": [
{"LeafNodeType": "BeforeSuite", "State": "passed"},
{"ContainerHierarchyTexts": ["[sig-auth] ServiceAccounts"], "LeafNodeText": "should mount [Conformance]", "LeafNodeType": "It", "State": "failed", "Failure": {"Message": "no <token>\nmore"}},
{"ContainerHierarchyTexts": ["[sig-auth] ServiceAccounts"], "LeafNodeText": "should update [Conformance]", "LeafNodeType": "It", "State": "passed"},
{"ContainerHierarchyTexts": ["[sig-cli] Kubectl"], "LeafNodeText": "proxy [Conformance]", "LeafNodeType": "It", "State": "skipped"}]}]`

func report(t *testing.T, reasons string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	results, why := filepath.Join(dir, "run.json"), filepath.Join(dir, "reasons.txt")
	for file, text := range map[string]string{results: run1, why: reasons} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return update(t, filepath.Join(dir, "page.md"), why, results)
}

// update returns the page as the run's results leave it.
func update(t *testing.T, page, why, results string) (string, error) {
	t.Helper()
	err := run(page, why, "v1", []string{results})
	text, readErr := os.ReadFile(page)
	if readErr != nil {
		t.Fatal(readErr)
	}
	return string(text), err
}

func TestReportCountsAndExplains(t *testing.T) {
	page, err := report(t, "# why\nshould mount\n  agents have\n  no volumes\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| sig-auth | 2 | 1 | 1 | 50.0 % | v1 |", "| all | 2 | 1 | 1 | 50.0 % |  |", "agents have no volumes", "failed: no &lt;token>"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	if page, _ := report(t, ""); !strings.Contains(page, "not explained yet") {
		t.Errorf("a failure without a reason is not told:\n%s", page)
	}
}

func TestReasonOfWhatPassedIsRefused(t *testing.T) {
	if _, err := report(t, "should mount\n  x\nshould update\n  stale\n"); err == nil || !strings.Contains(err.Error(), "should update") {
		t.Errorf("got %v, want a complaint about the stale reason", err)
	}
}

func TestAreasThatDidNotRunKeepWhatIsKnown(t *testing.T) {
	dir := t.TempDir()
	page, results := filepath.Join(dir, "page.md"), filepath.Join(dir, "results.json")
	known := "| sig-auth | 9 | 9 | 0 | 100.0 % | v0 |\n| sig-cli | 4 | 3 | 1 | 75.0 % | v0 |\n\n| [sig-cli] Guestbook \\| x | no names | failed |\n"
	for file, text := range map[string]string{page: known, results: run1} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // what it wrote it reads
		got, err := update(t, page, "", results)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"| sig-auth | 2 | 1 | 1 | 50.0 % | v1 |", "| sig-cli | 4 | 3 | 1 | 75.0 % | v0 |", "| all | 6 | 4 | 2 | 66.7 % |", `| [sig-cli] Guestbook \| x | no names | failed |`} {
			if strings.Count(got, want) != 1 {
				t.Errorf("the page has %q %d times, want once:\n%s", want, strings.Count(got, want), got)
			}
		}
	}
}
