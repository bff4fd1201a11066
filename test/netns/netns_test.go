// Package netns runs the scenarios, and what needs real containers, on five
// hosts in network namespaces: the release binary, real containerd, kill -9. It
// needs root, bin/muster and bin/images (make build images).
//
//	go test -v ./test/netns              the short form
//	go test -v ./test/netns -args -full  what make chaos-smoke runs
package netns

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/musterhq/muster/deploy/lab"
	"github.com/musterhq/muster/test/scenario"
)

var (
	full = flag.Bool("full", false, "work the cluster harder, and hold it to its promises on an idle machine")
	keep = flag.Bool("keep", false, "leave the hosts up when a test has failed, to look at")
)

const root = "../.."

// cluster is the one all tests share: it takes seconds to make, and a cluster
// that has been through the other tests is a better one to test.
var cluster *hosts

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "netns:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: network namespaces and containers need root")
		return 0, nil
	}
	muster := filepath.Join(root, "bin", "muster")
	for _, need := range []string{muster, filepath.Join(root, "bin", "images", "hello.tar")} {
		if _, err := os.Stat(need); err != nil {
			return 0, fmt.Errorf("%w; run: make build images", err)
		}
	}
	dir, err := os.MkdirTemp("", "muster-netns-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(dir)
	l, err := lab.Open(lab.Config{Dir: filepath.Join(dir, "lab"), Muster: muster, Images: filepath.Join(root, "bin", "images")})
	if err != nil {
		return 0, err
	}
	defer func() {
		if *keep && (code != 0 || err != nil) {
			fmt.Printf("kept: go run ./deploy/lab/cmd/lab --dir %s status, … down\n", l.Dir)
			return
		}
		if downErr := l.Down(context.Background()); downErr != nil && err == nil {
			err = downErr
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := l.Up(ctx, os.Stdout); err != nil {
		return 0, err
	}
	cluster = &hosts{l}
	code = m.Run()
	if code != 0 {
		cluster.printLogs()
	}
	return code, nil
}

// hosts is the lab as scenarios see it.
type hosts struct{ lab *lab.Lab }

var _ scenario.Cluster = (*hosts)(nil)

func names(hosts []*lab.Host) []string {
	var all []string
	for _, h := range hosts {
		all = append(all, h.Name)
	}
	return all
}

func (h *hosts) Control() []string { return names(h.lab.Of(lab.Control)) }
func (h *hosts) Compute() []string { return names(h.lab.Of(lab.Compute)) }

func (h *hosts) Config(control string) *rest.Config {
	config, err := h.lab.RESTConfig(control)
	if err != nil {
		panic(err) // the lab wrote the file
	}
	return config
}

func (h *hosts) Leader(ctx context.Context) (string, error) { return h.lab.Leader(ctx) }

func (h *hosts) Kill(ctx context.Context, name string) error {
	host, err := h.lab.Host(name)
	if err != nil {
		return err
	}
	return host.Kill(ctx)
}

func (h *hosts) Start(ctx context.Context, name string) error {
	host, err := h.lab.Host(name)
	if err != nil {
		return err
	}
	return host.Start(ctx)
}

func (h *hosts) Cut(_ context.Context, name string) error {
	host, err := h.lab.Host(name)
	if err != nil {
		return err
	}
	return host.Unplug()
}

func (h *hosts) Mend(_ context.Context, name string) error {
	host, err := h.lab.Host(name)
	if err != nil {
		return err
	}
	return host.Plug()
}

func (h *hosts) Containers(_ context.Context, name string) ([]string, error) {
	host, err := h.lab.Host(name)
	if err != nil {
		return nil, err
	}
	found, err := host.Containers()
	if err != nil {
		return nil, err
	}
	var pods []string
	for _, c := range found {
		if c.Name != "" { // not the sandbox
			pods = append(pods, c.Namespace+"/"+c.Pod)
		}
	}
	return pods, nil
}

// printLogs is for the reader of a failed run, whose lab is gone.
func (h *hosts) printLogs() {
	for _, host := range h.lab.Hosts {
		raw, err := os.ReadFile(host.Log())
		if err != nil {
			continue
		}
		lines := strings.SplitAfter(string(raw), "\n")
		fmt.Printf("=== the last lines of %s\n%s\n", host.Name, strings.Join(lines[max(0, len(lines)-40):], ""))
	}
}

// kubectls are the ones to try: the built-in, and an installed one, which is
// most likely of another version.
func kubectls() map[string][]string {
	found := map[string][]string{"built-in": {filepath.Join(root, "bin", "kubectl")}}
	if path, err := exec.LookPath("kubectl"); err == nil {
		found["installed"] = []string{path}
	}
	return found
}

// result is how a kubectl ended.
type result struct {
	out, err string
	code     int
}

// kubectl runs one to its end, with the administrator's kubeconfig.
func kubectl(t *testing.T, program []string, stdin string, arguments ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program[0], append(program[1:], arguments...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.lab.Kubeconfig(), "HOME="+t.TempDir())
	cmd.Stdin = strings.NewReader(stdin)
	var out, failure bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failure
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("kubectl %q did not end: %s%s", arguments, out.String(), failure.String())
	}
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	return result{out.String(), failure.String(), cmd.ProcessState.ExitCode()}
}

// works runs kubectl and fails the test unless it ends well.
func works(t *testing.T, program []string, arguments ...string) string {
	t.Helper()
	r := kubectl(t, program, "", arguments...)
	if r.code != 0 {
		t.Fatalf("kubectl %s: status %d\n%s%s", strings.Join(arguments, " "), r.code, r.out, r.err)
	}
	return r.out
}
