package netns

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A day with kubectl: the example of the README from apply to delete, with the
// built-in kubectl and with the one that is installed here.
func TestDayWithKubectl(t *testing.T) {
	example := filepath.Join(root, "deploy", "examples", "hello.yaml")
	for version, program := range kubectls() {
		t.Run(version, func(t *testing.T) {
			namespace := fmt.Sprintf("day-%d", time.Now().UnixMilli()%1e7)
			works(t, program, "create", "namespace", namespace)
			t.Cleanup(func() {
				cmd := exec.Command(program[0], "delete", "namespace", namespace, "--ignore-not-found", "--timeout=60s")
				cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.lab.Kubeconfig())
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("delete namespace: %v: %s", err, out)
				}
			})
			in := func(arguments ...string) string {
				t.Helper()
				return works(t, program, append([]string{"-n", namespace}, arguments...)...)
			}
			says := func(out, want string) {
				t.Helper()
				if !strings.Contains(out, want) {
					t.Errorf("got %q, want %q in it", out, want)
				}
			}

			end, lines := follow(t, program, "-n", namespace, "get", "pods", "-w")
			says(in("apply", "-f", example), "created")
			says(in("apply", "-f", example), "unchanged")
			in("wait", "--for=condition=Ready", "pod", "-l", "app=hello", "--timeout=60s")
			awaitLine(t, lines, "1/1")
			end()

			wide := in("get", "pods", "-o", "wide")
			for _, host := range cluster.Compute() {
				says(wide, host)
			}
			says(in("get", "rc", "hello", "-o", "yaml"), "readyReplicas: 3")
			says(in("describe", "rc", "hello"), "3 Running / 0 Waiting")
			says(in("describe", "pod", "busybox"), "Successfully assigned "+namespace+"/busybox")
			says(in("explain", "rc.spec.replicas"), "integer")
			says(in("scale", "rc", "hello", "--replicas=1"), "scaled")
			in("wait", "--for=jsonpath={.status.replicas}=1", "rc/hello", "--timeout=30s")
			says(in("delete", "-f", example, "--timeout=60s"), `"busybox" deleted`)
			if left := in("get", "pods", "-o", "name", "-l", "app=busybox"); left != "" {
				t.Errorf("after delete there is %q", left)
			}
		})
	}
}
