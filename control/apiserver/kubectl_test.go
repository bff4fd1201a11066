package apiserver

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// kubectl is an installed one, with a home of its own.
type kubectl struct {
	t      *testing.T
	path   string
	config string
	home   string
}

func newKubectl(t *testing.T, f *fixture) *kubectl {
	t.Helper()
	path, err := exec.LookPath("kubectl")
	if err != nil {
		t.Skip("no kubectl is installed")
	}
	dir := t.TempDir()
	certPEM, keyPEM := f.ca.issuePEM(t, "root", "system:masters")
	b64 := base64.StdEncoding.EncodeToString
	config := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: u, user: {client-certificate-data: %s, client-key-data: %s}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, f.http.URL, b64(f.ca.pem), b64(certPEM), b64(keyPEM))
	k := &kubectl{t: t, path: path, config: filepath.Join(dir, "config"), home: dir}
	if err := os.WriteFile(k.config, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *kubectl) command(ctx context.Context, stdin string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, k.path, args...)
	cmd.Env = []string{"HOME=" + k.home, "KUBECONFIG=" + k.config, "PATH=" + os.Getenv("PATH")}
	cmd.Stdin = strings.NewReader(stdin)
	return cmd
}

// run is kubectl's output, which must contain every want; a failure of kubectl
// fails the test.
func (k *kubectl) run(stdin, line string, want ...string) string {
	k.t.Helper()
	out, err := k.try(stdin, line)
	if err != nil {
		k.t.Errorf("kubectl %s: %v\n%s", line, err, out)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			k.t.Errorf("kubectl %s: %q is missing in\n%s", line, w, out)
		}
	}
	return out
}

func (k *kubectl) try(stdin, line string) (string, error) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 30*time.Second)
	defer cancel()
	out, err := k.command(ctx, stdin, strings.Fields(line)...).CombinedOutput()
	return string(out), err
}

const helloYAML = `
apiVersion: v1
kind: ReplicationController
metadata: {name: hello}
spec:
  replicas: 2
  selector: {app: hello}
  template:
    metadata: {labels: {app: hello}}
    spec:
      containers: [{name: web, image: example.org/web:1}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers: [{name: web, image: example.org/web:1, ports: [{containerPort: 80}]}]
`

// An ordinary kubectl, some versions older than the API, through the verbs of a
// day. What could go wrong: anything that only its own discovery, caches,
// printers and OpenAPI checks notice.
func TestInstalledKubectl(t *testing.T) {
	f := newFixture(t)
	k := newKubectl(t, f)

	k.run("", "api-resources", "pods", "po", "replicationcontrollers", "rc", "namespaces")
	k.run("", "api-versions", "v1")
	k.run("", "version", "Server Version: v1.37.1+muster")
	k.run(helloYAML, "apply -f -", "replicationcontroller/hello created", "pod/web created")
	k.run(helloYAML, "apply -f -", "replicationcontroller/hello unchanged", "pod/web unchanged")
	applied := strings.Replace(helloYAML, "replicas: 2", "replicas: 3", 1)
	k.run(applied, "apply -f -", "replicationcontroller/hello configured")
	// From client-side to server-side apply, and a field that another takes over.
	k.run(applied, "apply --server-side -f -", "replicationcontroller/hello serverside-applied", "pod/web serverside-applied")
	k.run("", "label pod web app=other --overwrite --field-manager=robot", "pod/web labeled")
	if out, err := k.try(applied, "apply --server-side -f -"); err == nil || !strings.Contains(out, `Apply failed with 1 conflict: conflict with "robot" using v1: .metadata.labels.app`) {
		t.Errorf("kubectl apply over another's label: %v\n%s", err, out)
	}
	k.run(applied, "apply --server-side --force-conflicts -f -", "pod/web serverside-applied")
	k.run(applied, "diff --server-side -f -")
	k.run("", "get pod web -o yaml --show-managed-fields", "manager: kubectl", "operation: Apply", "f:labels:")
	k.run("", "get pods", "NAME", "READY", "STATUS", "web", "Pending")
	k.run("", "get po web -o wide", "NODE", "<none>")
	k.run("", "get pod web -o yaml", "kind: Pod", "last-applied-configuration", "phase: Pending")
	k.run("", "get pods -A --show-labels", "NAMESPACE", "default", "app=web")
	k.run("", "get all", "pod/web", "replicationcontroller/hello")
	k.run("", "get ns", "default", "kube-system", "Active")
	k.run("", "get rc hello -o jsonpath={.spec.replicas}", "3")
	k.run("", "describe pod web", "Name:", "web", "Node:", "<none>", "Image:", "example.org/web:1", "Events:")
	k.run("", "describe rc hello", "Replicas:", "0 current / 3 desired")
	if out, err := k.try(strings.Replace(helloYAML, "image: example.org/web:1, ports", "imagge: example.org/web:1, ports", 1), "apply -f -"); err == nil || !strings.Contains(out, `unknown field "spec.containers[0].imagge"`) {
		t.Errorf("apply of an unknown field: %v\n%s", err, out)
	}
	k.run("", "describe ns default", "Status:", "Active")
	k.run("", "label pod web tier=front", "pod/web labeled")
	k.run("", "annotate pod web note=x", "pod/web annotated")
	k.run("", `patch pod web -p {"metadata":{"labels":{"patched":"strategic"}}}`, "pod/web patched")
	k.run("", `patch pod web --type=merge -p {"metadata":{"labels":{"merged":"1"}}}`, "pod/web patched")
	k.run("", `patch pod web --type=json -p [{"op":"remove","path":"/metadata/labels/merged"}]`, "pod/web patched")
	k.run("", "get pod -l tier=front,patched=strategic,!merged -o name", "pod/web")
	k.run("", "scale rc hello --replicas=5", "replicationcontroller/hello scaled")
	k.run("", "get rc hello", "DESIRED", "5")
	k.run("", "explain pod.spec.containers.image", "FIELD: image <string>")
	k.run("", "explain rc --recursive", "replicas")
	k.run("", "create ns team", "namespace/team created")
	k.run("", "get ns team -o jsonpath={.status.phase}", "Active")
	k.run("", "run one -n team --image=example.org/web:1 --dry-run=server -o name", "pod/one")
	k.run("", "run one -n team --image=example.org/web:1 --restart=Never", "pod/one created")
	k.run("", "set image pod/one -n team one=example.org/web:3", "pod/one image updated")
	k.run("", "get events -A", "No resources found")
	k.run("", "delete pod one -n team", `pod "one" deleted`)
	if out, err := k.try("", "get pod none"); err == nil || !strings.Contains(out, `Error from server (NotFound): pods "none" not found`) {
		t.Errorf("get of nothing: %v\n%s", err, out)
	}
	if out, err := k.try("", "get cats"); err == nil || !strings.Contains(out, `the server doesn't have a resource type "cats"`) {
		t.Errorf("get of an unknown kind: %v\n%s", err, out)
	}
	if out, err := k.try("", "get nodes --as=alice"); err == nil || !strings.Contains(out, `User "alice" cannot list resource "nodes"`) {
		t.Errorf("get as alice: %v\n%s", err, out)
	}
	k.run("", "wait pod web --for=jsonpath={.status.phase}=Pending --timeout=5s", "condition met")
	began := time.Now()
	if out, err := k.try("", "wait pod web --for=condition=Ready --timeout=1s"); err == nil || !strings.Contains(out, "timed out waiting") || time.Since(began) > 10*time.Second {
		t.Errorf("wait for what does not come: %v after %s\n%s", err, time.Since(began), out)
	}
	k.run("", "delete rc hello", `replicationcontroller "hello" deleted`)
	k.run("", "delete pods --all", `pod "web" deleted`)
	k.run("", "get pods", "No resources found")
}

func TestInstalledKubectlWatches(t *testing.T) {
	f := newFixture(t)
	k := newKubectl(t, f)
	f.bound("web", "n1")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	watching := k.command(ctx, "", "get", "pods", "-w", "--no-headers")
	var out lockedBuffer
	watching.Stdout, watching.Stderr = &out, &out
	if err := watching.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor := func(text string) {
		t.Helper()
		for !strings.Contains(out.String(), text) {
			if ctx.Err() != nil {
				t.Fatalf("kubectl get -w does not show %q:\n%s", text, out.String())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	waitFor("web")
	if _, err := f.reg.Create(ctx, resource.Pods, "default", newPod("later"), resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor("later")
	ready := k.command(ctx, "", "wait", "pod/web", "--for=condition=Ready", "--timeout=15s")
	done := make(chan string, 1)
	go func() {
		b, err := ready.CombinedOutput()
		done <- fmt.Sprintf("%s%v", b, err)
	}()
	time.Sleep(300 * time.Millisecond)
	_, _, err := f.reg.Update(ctx, resource.Pods, "default", "web", "status", func(current store.Object) (store.Object, error) {
		pod := current.(*corev1.Pod)
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue})
		return pod, nil
	}, resource.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	waitFor("Running")
	if got := <-done; !strings.Contains(got, "pod/web condition met") {
		t.Errorf("kubectl wait: %s", got)
	}
	cancel()
	_ = watching.Wait()
}

func TestInstalledKubectlStreams(t *testing.T) {
	f := newFixture(t)
	k := newKubectl(t, f)
	f.bound("web", "n1")
	commands := shell(7)
	f.streams.serve(func(ctx context.Context, node string, request *agentv1.OpenStream, s *agentSide) error {
		if request.GetLog() != nil {
			go func() {
				s.out("a line\n")
				s.end(&agentv1.StreamResult{})
			}()
			return nil
		}
		return commands(ctx, node, request, s)
	})
	k.run("", "logs web", "a line")
	k.run("", "logs -f web --tail=3", "a line")
	for _, websockets := range []string{"true", "false"} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		cmd := k.command(ctx, "hello", "exec", "-i", "web", "--", "cat", "-")
		cmd.Env = append(cmd.Env, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS="+websockets)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		if cmd.ProcessState.ExitCode() != 7 || !strings.HasSuffix(out.String(), "[cat -]:HELLO") || !strings.Contains(errs.String(), "end of input") {
			t.Errorf("exec, WebSockets %s: %v, stdout %q, stderr %q; want exit code 7, HELLO and end of input", websockets, err, out.String(), errs.String())
		}
	}
}

// The namespace's deletion is the namespace controller's; here only that kubectl
// sees the object end.
func TestInstalledKubectlDeletesAndWaits(t *testing.T) {
	f := newFixture(t)
	k := newKubectl(t, f)
	pod := f.bound("web", "n1")
	done := make(chan string, 1)
	go func() {
		out, err := k.try("", "delete pod web --timeout=15s")
		done <- fmt.Sprintf("%s%v", out, err)
	}()
	deadline := time.Now().Add(10 * time.Second)
	for {
		got, err := f.store.Table(store.Pods).Get(t.Context(), "default", "web")
		if err == nil && got.GetDeletionTimestamp() != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("kubectl delete did not mark the pod")
		}
		time.Sleep(10 * time.Millisecond)
	}
	zero := int64(0)
	uid := pod.UID
	if _, gone, err := f.reg.Delete(t.Context(), resource.Pods, "default", "web", &metav1.DeleteOptions{GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid}}); err != nil || !gone {
		t.Fatalf("the agent's last word: gone %t, %v", gone, err)
	}
	if got := <-done; !strings.Contains(got, `pod "web" deleted`) || !strings.HasSuffix(got, "<nil>") {
		t.Errorf("kubectl delete: %s", got)
	}
}
