// Package systemd holds the units, and the tests of how they are installed.
package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// install runs install.sh below an empty root, with a stand-in for muster that
// says which one it is.
func install(t *testing.T, root, version string, arguments ...string) (string, error) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "muster")
	if err := os.WriteFile(binary, []byte("#!/bin/sh\necho "+version+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", append([]string{"../install.sh"}, arguments...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DESTDIR=" + root, "MUSTER_BINARY=" + binary}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func files(t *testing.T, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, _ := filepath.Rel(root, path)
		if entry.Type()&os.ModeSymlink != 0 {
			link, err := os.Readlink(path)
			found[name] = "-> " + link
			return err
		}
		data, err := os.ReadFile(path)
		found[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestInstallRepeatedUpgradesAndKeepsSettings(t *testing.T) {
	root := t.TempDir()
	if out, err := install(t, root, "one", "agent", "NAME=n1", "JOIN=10.0.0.1:6443", "TOKEN=secret"); err != nil {
		t.Fatal(err, out)
	}
	info, err := os.Stat(filepath.Join(root, "etc/muster/agent.env"))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("the file with the token has mode %o, want 600", got)
	}
	if out, err := install(t, root, "two", "agent"); err != nil {
		t.Fatal(err, out)
	}
	got := files(t, root)
	unit, err := os.ReadFile("muster-agent.service")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"usr/local/bin/muster":                    "#!/bin/sh\necho two\n",
		"usr/local/bin/kubectl":                   "-> muster",
		"etc/muster/agent.env":                    "MUSTER_NAME=n1\nMUSTER_JOIN=10.0.0.1:6443\nMUSTER_TOKEN=secret\n",
		"etc/systemd/system/muster-agent.service": string(unit),
	}
	for name, content := range want {
		if got[name] != content {
			t.Errorf("%s is %q, want %q", name, got[name], content)
		}
	}
	if len(got) != len(want) {
		t.Errorf("installed %d files, want %d: %v", len(got), len(want), got)
	}
}

func TestInstallRefuses(t *testing.T) {
	for name, arguments := range map[string][]string{
		"an unknown role":     {"gateway"},
		"a malformed setting": {"agent", "name=n1"},
		"nothing":             {},
	} {
		root := t.TempDir()
		if out, err := install(t, root, "one", arguments...); err == nil {
			t.Errorf("%s was taken: %s", name, out)
		}
		if _, err := os.Stat(filepath.Join(root, "etc/systemd")); err == nil && name != "a malformed setting" {
			t.Errorf("%s: something was installed", name)
		}
	}
	root := t.TempDir()
	if out, err := install(t, root, "one", "server", "NAME=c1"); err != nil {
		t.Fatal(err, out)
	}
	if out, err := install(t, root, "one", "agent", "NAME=n1"); err == nil {
		t.Errorf("a control node became a compute node as well: %s", out)
	}
}

func TestUninstallLeavesOthersFiles(t *testing.T) {
	root := t.TempDir()
	kubectl := filepath.Join(root, "usr/local/bin/kubectl")
	if err := os.MkdirAll(filepath.Dir(kubectl), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kubectl, []byte("another kubectl"), 0o755); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(root, "var/lib/muster/state")
	if err := os.MkdirAll(state, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, step := range [][]string{{"server", "NAME=c1"}, {"--uninstall"}, {"--uninstall"}} {
		if out, err := install(t, root, "one", step...); err != nil {
			t.Fatal(err, out)
		}
	}
	got := files(t, root)
	if got["usr/local/bin/kubectl"] != "another kubectl" {
		t.Errorf("the kubectl that was there is %q", got["usr/local/bin/kubectl"])
	}
	if _, there := got["usr/local/bin/muster"]; there {
		t.Error("muster is still there")
	}
	if _, err := os.Stat(state); err != nil {
		t.Error("what muster kept is gone without --purge")
	}
	if out, err := install(t, root, "one", "--uninstall", "--purge"); err != nil {
		t.Fatal(err, out)
	}
	if got := files(t, root); len(got) != 1 {
		t.Errorf("left %v, want only the other kubectl", got)
	}
}

func TestUnitsAreValid(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("needs systemd-analyze: ", err)
	}
	units, err := filepath.Glob("*.service")
	if err != nil || len(units) != 2 {
		t.Fatalf("units are %v (%v), want 2", units, err)
	}
	for _, unit := range units {
		out, _ := exec.Command(analyze, "verify", "./"+unit).CombinedOutput()
		for line := range strings.Lines(string(out)) {
			// Whether muster is installed here does not matter, nor do others' units.
			if strings.Contains(line, unit) && !strings.Contains(line, "/usr/local/bin/muster is not executable") {
				t.Error(line)
			}
		}
	}
}

// A stop of the agent's unit must not stop containers, and neither unit may
// stay down.
func TestUnitsKeepTheirPromises(t *testing.T) {
	for unit, wants := range map[string][]string{
		"muster-agent.service":  {"KillMode=process", "Delegate=yes", "Restart=always", "LimitNOFILE=1048576"},
		"muster-server.service": {"Restart=always", "LimitNOFILE=1048576"},
	} {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !regexp.MustCompile(`(?m)^` + want + `$`).Match(text) {
				t.Errorf("%s lacks %s", unit, want)
			}
		}
	}
}
