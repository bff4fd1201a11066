package transcripts

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/musterhq/muster/test/clients/cluster"
)

var (
	update = flag.Bool("update", false, "write the transcripts anew")
	other  = flag.String("kubeconfig", "", "ask the cluster of this kubeconfig instead of one of ours")
)

// commandLimit is how long one command of a transcript may take.
const commandLimit = 2 * time.Minute

// TestKubectlPrintsWhatItPrintsOfKubernetes has all its cases on one cluster,
// each in a namespace of its own.
func TestKubectlPrintsWhatItPrintsOfKubernetes(t *testing.T) {
	program := cluster.Program(t)
	config := *other
	if config == "" {
		c := cluster.Dev(t)
		config = c.Kubeconfig(c.Nodes()[0])
	}
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d transcripts: %v", len(files), err)
	}
	t.Run("verbs", func(t *testing.T) {
		for _, file := range files {
			name := strings.TrimSuffix(filepath.Base(file), ".txt")
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				want, err := parse(string(text))
				if err != nil {
					t.Fatalf("%s: %v", file, err)
				}
				newTerminal(t, program, config, name).compare(file, want)
			})
		}
	})
	t.Run("kinds", func(t *testing.T) { testEveryKindHasAnObject(t, program, config) })
}

// terminal is where the commands of one transcript run: a shell with kubectl, a
// home and a namespace of its own.
type terminal struct {
	t         *testing.T
	env       []string
	namespace string
}

func newTerminal(t *testing.T, program, kubeconfig, namespace string) *terminal {
	t.Helper()
	home := t.TempDir()
	config, err := clientcmd.LoadFromFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, context := range config.Contexts {
		context.Namespace = namespace
	}
	own := filepath.Join(home, "config")
	if err := clientcmd.WriteToFile(*config, own); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(home, "kubectl")); err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, namespace: namespace, env: []string{
		"HOME=" + home, "KUBECONFIG=" + own, "PATH=" + home + ":/usr/local/bin:/usr/bin:/bin", "TZ=UTC", "LANG=C.UTF-8",
	}}
	term.must("kubectl create namespace " + namespace)
	t.Cleanup(func() { term.must("kubectl delete namespace --wait=false " + namespace) })
	return term
}

// run is what a command of a transcript printed, without what differs each time.
func (term *terminal) run(command string) string {
	// Cleaning up happens after the test's own context has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(term.t.Context()), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/bash", "-c", command)
	cmd.Dir, cmd.Env = "testdata/files", term.env
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		return shown(stdout.String(), stderr.String(), 0) + fmt.Sprintf("\n[not done after %v]", commandLimit)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		term.t.Fatalf("%s: %v", command, err)
	}
	return mask(shown(stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()))
}

func (term *terminal) must(command string) {
	if out := term.run(command); strings.Contains(out, "[exit ") {
		term.t.Errorf("%s: %s", command, out)
	}
}

// compare runs the commands of a transcript and compares what they print, or
// writes the file.
func (term *terminal) compare(file string, want script) {
	t := term.t
	got := make(script, len(want))
	for i, step := range want {
		got[i] = step
		began := time.Now()
		got[i].output = term.run(step.command)
		t.Logf("%v: %.100s", time.Since(began).Round(time.Millisecond), step.command)
		if *update {
			continue
		}
		if got[i].output != step.output {
			t.Errorf("%s\n$ %s\n%s", file, step.command, cmp.Diff(strings.Split(step.output, "\n"), strings.Split(got[i].output, "\n")))
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
