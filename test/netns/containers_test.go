package netns

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pods are two web servers and two shells, one of each on each node, so that a
// test can go from any node to any.
const pods = `
apiVersion: v1
kind: Pod
metadata:
  name: web-@NODE@
spec:
  nodeSelector: {kubernetes.io/hostname: @NODE@}
  terminationGracePeriodSeconds: 1
  containers:
  - name: hello
    image: muster.local/hello:1
    env:
    - {name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
---
apiVersion: v1
kind: Pod
metadata:
  name: shell-@NODE@
spec:
  nodeSelector: {kubernetes.io/hostname: @NODE@}
  terminationGracePeriodSeconds: 0
  containers:
  - name: busybox
    image: muster.local/busybox:1
    command: [sleep, infinity]
---
`

// follow starts a kubectl that goes on, and passes on the lines it prints until
// the returned function ends it.
func follow(t *testing.T, program []string, arguments ...string) (end func(), lines <-chan string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program[0], append(program[1:], arguments...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.lab.Kubeconfig())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	passed := make(chan string, 1000)
	go func() {
		defer close(passed)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			passed <- scanner.Text()
		}
	}()
	return func() {
		_ = cmd.Process.Kill()
		for range passed { // until the reader has seen the end
		}
		_ = cmd.Wait()
	}, passed
}

func awaitLine(t *testing.T, lines <-chan string, want string) {
	t.Helper()
	limit := time.After(15 * time.Second)
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("the stream ended without %q", want)
			}
			if strings.Contains(line, want) {
				return
			}
		case <-limit:
			t.Fatalf("no line with %q within 15 s", want)
		}
	}
}

// started makes a namespace with the pods and waits until they are ready.
func started(t *testing.T) (namespace string) {
	t.Helper()
	program := kubectls()["built-in"]
	namespace = fmt.Sprintf("pods-%d", time.Now().UnixMilli()%1e7)
	works(t, program, "create", "namespace", namespace)
	t.Cleanup(func() {
		// t's context is over.
		cmd := exec.Command(program[0], "delete", "namespace", namespace, "--timeout=60s")
		cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.lab.Kubeconfig())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("delete namespace: %v: %s", err, out)
		}
	})
	manifest := ""
	for _, node := range cluster.Compute() {
		manifest += strings.ReplaceAll(pods, "@NODE@", node)
	}
	file := filepath.Join(t.TempDir(), "pods.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	works(t, program, "-n", namespace, "apply", "-f", file)
	works(t, program, "-n", namespace, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
	return namespace
}

func addressOf(t *testing.T, namespace, pod string) string {
	t.Helper()
	ip := works(t, kubectls()["built-in"], "-n", namespace, "get", "pod", pod, "-o", "jsonpath={.status.podIP}")
	if ip == "" {
		t.Fatalf("pod %s has no address", pod)
	}
	return ip
}

func TestPodsReachPodsOnAllNodes(t *testing.T) {
	namespace := started(t)
	for _, from := range cluster.Compute() {
		for _, to := range cluster.Compute() {
			ip := addressOf(t, namespace, "web-"+to)
			got := works(t, kubectls()["built-in"], "-n", namespace, "exec", "shell-"+from, "--", "wget", "-qO-", "http://"+ip+":8080/")
			if want := fmt.Sprintf("hello from web-%s on %s at %s\n", to, to, ip); got != want {
				t.Errorf("from %s: %q, want %q", from, got, want)
			}
		}
	}
}

func TestExecAndLogs(t *testing.T) {
	namespace := started(t)
	shell, web := "shell-n1", "web-n2"
	ip := addressOf(t, namespace, web)
	for version, program := range kubectls() {
		t.Run(version, func(t *testing.T) {
			in := func(stdin string, arguments ...string) result {
				t.Helper()
				return kubectl(t, program, stdin, append([]string{"-n", namespace}, arguments...)...)
			}
			for _, code := range []int{0, 1, 42} {
				if r := in("", "exec", shell, "--", "sh", "-c", fmt.Sprintf("echo out; echo err >&2; exit %d", code)); r.code != code || r.out != "out\n" || !strings.HasPrefix(r.err, "err\n") {
					t.Errorf("exec that exits with %d: status %d, out %q, err %q", code, r.code, r.out, r.err)
				}
			}
			big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB through both directions
			if r := in(big, "exec", "-i", shell, "--", "cat"); r.code != 0 || r.out != big {
				t.Errorf("cat gave back %d bytes with status %d, want %d: %s", len(r.out), r.code, len(big), r.err)
			}
			if r := in("", "exec", shell, "--", "no-such-program"); r.code == 0 {
				t.Error("exec of a program that does not exist ended with status 0")
			}

			mark := fmt.Sprintf("/%s-%d", version, time.Now().UnixNano())
			stream, lines := follow(t, program, "-n", namespace, "logs", "-f", "--tail=1", web)
			if r := in("", "exec", shell, "--", "wget", "-qO-", "http://"+ip+":8080"+mark); r.code != 0 {
				t.Fatalf("wget: %s%s", r.out, r.err)
			}
			awaitLine(t, lines, "GET "+mark+" from ")
			stream()
			if r := in("", "logs", "--tail=1", web); r.code != 0 || strings.Count(r.out, "\n") != 1 || !strings.Contains(r.out, mark) {
				t.Errorf("logs --tail=1: status %d, %q, want the line with %s", r.code, r.out, mark)
			}
		})
	}
}

func TestShellOnATerminal(t *testing.T) {
	script, err := exec.LookPath("script") // gives kubectl a terminal
	if err != nil {
		t.Skip("needs script, of bsdutils: ", err)
	}
	namespace := started(t)
	for version, program := range kubectls() {
		t.Run(version, func(t *testing.T) {
			command := strings.Join(append(program, "-n", namespace, "exec", "-it", "shell-n1", "--", "sh"), " ")
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, script, "-qec", command, "/dev/null")
			cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.lab.Kubeconfig(), "TERM=dumb")
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// A person types when the prompt is there.
			time.Sleep(2 * time.Second)
			fmt.Fprint(stdin, "tty && echo $((40+2)) && exit 7\n")
			err = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != 7 {
				t.Errorf("status %d (%v), want 7; output %q", code, err, out.String())
			}
			if !strings.Contains(out.String(), "/dev/pts/") || !strings.Contains(out.String(), "42") {
				t.Errorf("output is %q, want a terminal's name and 42", out.String())
			}
		})
	}
}

func TestKilledContainerIsRestartedOnce(t *testing.T) {
	namespace := started(t)
	host, err := cluster.lab.Host("n1")
	if err != nil {
		t.Fatal(err)
	}
	containers, err := host.Containers()
	if err != nil {
		t.Fatal(err)
	}
	killed := false
	for _, c := range containers {
		if c.Namespace == namespace && c.Pod == "web-n1" && c.Name == "hello" {
			if err := unix.Kill(c.PID, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed = true
		}
	}
	if !killed {
		t.Fatalf("n1 runs %+v, and not hello of web-n1", containers)
	}
	program := kubectls()["built-in"]
	began, got := time.Now(), ""
	for time.Since(began) < 20*time.Second {
		got = works(t, program, "-n", namespace, "get", "pod", "web-n1", "-o",
			`jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready} {.status.containerStatuses[0].lastState.terminated.exitCode}`)
		if got == "1 true 137" {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if got != "1 true 137" {
		t.Fatalf("restarts, ready, last exit code are %q, want %q", got, "1 true 137")
	}
	t.Logf("running again %v after kill -9", time.Since(began).Round(time.Millisecond))
	if out := works(t, program, "-n", namespace, "logs", "--previous", "web-n1"); !strings.Contains(out, "web-n1 on n1 listens") {
		t.Errorf("logs --previous are %q, want the first run's", out)
	}
}

func TestMissingImageSaysWhy(t *testing.T) {
	namespace := started(t)
	program := kubectls()["built-in"]
	works(t, program, "-n", namespace, "run", "missing", "--image=muster.local/missing:1", "--restart=Never")
	status := regexp.MustCompile(`(?s)Reason:\s+(ErrImagePull|ImagePullBackOff).*Events:.*muster\.local/missing:1`)
	out := ""
	for end := time.Now().Add(40 * time.Second); time.Now().Before(end); time.Sleep(300 * time.Millisecond) {
		if out = works(t, program, "-n", namespace, "describe", "pod", "missing"); status.MatchString(out) {
			return
		}
	}
	t.Errorf("describe does not say that the image is missing:\n%s", out)
}
