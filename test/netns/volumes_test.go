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

// diary is a StatefulSet whose pod writes down its uid each time it starts, as a user
// that is not root.
const diary = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: diary}
spec:
  serviceName: diary
  replicas: 1
  selector: {matchLabels: {app: diary}}
  template:
    metadata: {labels: {app: diary}}
    spec:
      terminationGracePeriodSeconds: 0
      securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}
      containers:
      - name: main
        image: muster.local/busybox:1
        command: [sh, -c, "echo $UID_ >> /data/started && exec sleep infinity"]
        env: [{name: UID_, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]
        volumeMounts: [{name: data, mountPath: /data, subPath: of/diary}, {name: all, mountPath: /all, readOnly: true}]
      volumes:
      - name: all
        persistentVolumeClaim: {claimName: data-diary-0}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`

// A claim just works: its data outlives its pod, on the same node, and goes with the claim.
func TestDataOutlivesItsPodAndGoesWithItsClaim(t *testing.T) {
	program := kubectls()["built-in"]
	namespace := fmt.Sprintf("volumes-%d", time.Now().UnixMilli()%1e7)
	in := func(arguments ...string) string {
		t.Helper()
		return works(t, program, append([]string{"-n", namespace}, arguments...)...)
	}
	works(t, program, "create", "namespace", namespace)
	t.Cleanup(func() {
		cmd := exec.Command(program[0], "delete", "namespace", namespace, "--timeout=60s")
		cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.lab.Kubeconfig())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("delete namespace: %v: %s", err, out)
		}
	})
	file := filepath.Join(t.TempDir(), "diary.yaml")
	if err := os.WriteFile(file, []byte(diary), 0o644); err != nil {
		t.Fatal(err)
	}
	in("apply", "-f", file)
	in("rollout", "status", "statefulset/diary", "--timeout=60s")
	first := in("get", "pod", "diary-0", "-o", "jsonpath={.metadata.uid} {.spec.nodeName}")
	in("delete", "pod", "diary-0")
	in("rollout", "status", "statefulset/diary", "--timeout=60s")
	in("wait", "--for=condition=Ready", "pod/diary-0", "--timeout=60s")
	second := in("get", "pod", "diary-0", "-o", "jsonpath={.metadata.uid} {.spec.nodeName}")
	firstUID, firstNode, _ := strings.Cut(first, " ")
	secondUID, secondNode, _ := strings.Cut(second, " ")
	if got, want := in("exec", "diary-0", "--", "cat", "/all/of/diary/started"), firstUID+"\n"+secondUID+"\n"; got != want {
		t.Errorf("the second pod reads %q, want %q", got, want)
	}
	if firstNode != secondNode {
		t.Errorf("it came back on %s, its data is on %s", secondNode, firstNode)
	}
	if r := kubectl(t, program, "", "-n", namespace, "exec", "diary-0", "--", "touch", "/all/x"); r.code == 0 {
		t.Error("a read-only mount can be written to")
	}
	volume := in("get", "pvc", "data-diary-0", "-o", "jsonpath={.spec.volumeName}")
	directory := works(t, program, "get", "pv", volume, "-o", "jsonpath={.spec.local.path}")
	if info, err := os.Stat(directory); err != nil || !info.IsDir() { // hosts share this machine's files
		t.Fatalf("%s: %v, want the directory there", directory, err)
	}
	in("delete", "statefulset/diary", "--cascade=foreground", "--wait", "--timeout=60s")
	in("delete", "pvc", "data-diary-0", "--timeout=60s")
	works(t, program, "wait", "--for=delete", "pv/"+volume, "--timeout=60s")
	if _, err := os.Stat(directory); !os.IsNotExist(err) {
		t.Errorf("%s after its claim: %v, want it gone", directory, err)
	}
}
