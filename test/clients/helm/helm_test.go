package helm

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/musterhq/muster/test/clients/cluster"
)

const namespace = "shop"

var (
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	gadgets     = schema.GroupVersionResource{Group: "shop.example.org", Version: "v1", Resource: "gadgets"}
)

// helm is the program, with a home and a cluster.
type helm struct {
	t       *testing.T
	path    string
	env     []string
	client  kubernetes.Interface
	dynamic dynamic.Interface
}

func newHelm(t *testing.T) *helm {
	t.Helper()
	path := os.Getenv("HELM")
	if path == "" {
		path = "../../../bin/helm"
	}
	path, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Skipf("no helm was built (make clients does, or HELM=path): %v", err)
	}
	c := cluster.Dev(t)
	config := c.Config(c.Nodes()[0])
	h := &helm{t: t, path: path, env: []string{"HOME=" + t.TempDir(), "KUBECONFIG=" + c.Kubeconfig(c.Nodes()[0]), "PATH=/usr/bin:/bin"}}
	if h.client, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if h.dynamic, err = dynamic.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	return h
}

// try runs helm in the release's namespace.
func (h *helm) try(args ...string) (string, error) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.path, append(args, "--namespace", namespace)...)
	cmd.Env = h.env
	began := time.Now()
	out, err := cmd.CombinedOutput()
	h.t.Logf("helm %s: %v", strings.Join(args, " "), time.Since(began).Round(time.Millisecond))
	return string(out), err
}

func (h *helm) run(args ...string) string {
	h.t.Helper()
	out, err := h.try(args...)
	if err != nil {
		h.t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// refused runs what must fail and say so.
func (h *helm) refused(want string, args ...string) {
	h.t.Helper()
	out, err := h.try(args...)
	if err == nil || !strings.Contains(out, want) {
		h.t.Fatalf("helm %s: %v, want a failure about %q:\n%s", strings.Join(args, " "), err, want, out)
	}
}

// history is the status of each revision that helm remembers.
func (h *helm) history(release string) []string {
	h.t.Helper()
	var revisions []struct {
		Revision int    `json:"revision"`
		Status   string `json:"status"`
	}
	if err := json.Unmarshal([]byte(h.run("history", release, "--output", "json")), &revisions); err != nil {
		h.t.Fatal(err)
	}
	var all []string
	for _, r := range revisions {
		all = append(all, fmt.Sprint(r.Revision, " ", r.Status))
	}
	return all
}

func (h *helm) wantHistory(release string, want ...string) {
	h.t.Helper()
	if got := h.history(release); !slices.Equal(got, want) {
		h.t.Errorf("history %q, want %q", got, want)
	}
}

// wantConfig compares the data of a config map, nil for none.
func (h *helm) wantConfig(name string, want map[string]string) {
	h.t.Helper()
	got, err := h.client.CoreV1().ConfigMaps(namespace).Get(h.t.Context(), name, metav1.GetOptions{})
	if want == nil {
		if !apierrors.IsNotFound(err) {
			h.t.Errorf("config map %s: %v, want none", name, err)
		}
		return
	}
	if err != nil {
		h.t.Fatal(err)
	}
	delete(got.Data, "kubernetes")
	if !maps.Equal(got.Data, want) {
		h.t.Errorf("config map %s has %v, want %v", name, got.Data, want)
	}
}

func (h *helm) deployment(name string) *appsv1.Deployment {
	h.t.Helper()
	d, err := h.client.AppsV1().Deployments(namespace).Get(h.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

// releases are the names of the secrets that helm remembers releases in.
func (h *helm) releases() []string {
	h.t.Helper()
	secrets, err := h.client.CoreV1().Secrets(namespace).List(h.t.Context(), metav1.ListOptions{FieldSelector: "type=helm.sh/release.v1"})
	if err != nil {
		h.t.Fatal(err)
	}
	var all []string
	for _, s := range secrets.Items {
		all = append(all, s.Name)
	}
	return all
}

func (h *helm) defined(name string) bool {
	h.t.Helper()
	_, err := h.dynamic.Resource(definitions).Get(h.t.Context(), name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		h.t.Fatal(err)
	}
	return err == nil
}

// How a chart is applied: by the server, as Helm 4 does unless it is told
// otherwise, or by Helm, as before.
func TestChartLives(t *testing.T) {
	h := newHelm(t)
	for release, serverSide := range map[string]string{"front": "true", "back": "false"} {
		t.Run("server-side="+serverSide, func(t *testing.T) {
			h.t = t
			h.live(release, serverSide)
		})
	}
}

func (h *helm) live(release, serverSide string) {
	t, ctx := h.t, h.t.Context()
	out := h.run("install", release, "testdata/chart", "--create-namespace", "--wait", "--timeout", "2m", "--server-side="+serverSide)
	for _, want := range []string{"STATUS: deployed", "REVISION: 1", release + " is green."} {
		if !strings.Contains(out, want) {
			t.Errorf("install says nothing of %q:\n%s", want, out)
		}
	}
	h.wantConfig(release, map[string]string{"color": "green", "revision": "1"})
	h.wantConfig(release+"-installed", map[string]string{"revision": "1"})
	if d := h.deployment(release); d.Status.AvailableReplicas != 1 {
		t.Errorf("install did not wait for the deployment: %+v", d.Status)
	}
	h.wantNoJobs()
	gadget, err := h.dynamic.Resource(gadgets).Namespace(namespace).Get(ctx, release, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if size, _, _ := unstructured.NestedInt64(gadget.Object, "spec", "size"); size != 3 {
		t.Errorf("gadget %v, want the default size", gadget.Object)
	}
	operation := metav1.ManagedFieldsOperationUpdate
	if serverSide == "true" {
		operation = metav1.ManagedFieldsOperationApply
	}
	if d := h.deployment(release); !slices.ContainsFunc(d.ManagedFields, func(m metav1.ManagedFieldsEntry) bool { return m.Manager == "helm" && m.Operation == operation }) {
		t.Errorf("managed fields %+v, want helm's by %s", d.ManagedFields, operation)
	}
	if out := h.run("test", release); !strings.Contains(out, "Phase:          Succeeded") {
		t.Errorf("the test did not succeed:\n%s", out)
	}

	h.run("upgrade", release, "testdata/chart", "--set", "color=blue,replicas=2", "--wait", "--timeout", "2m", "--server-side="+serverSide)
	h.wantConfig(release, map[string]string{"color": "blue", "revision": "2"})
	h.wantConfig(release+"-installed", map[string]string{"revision": "2"})
	if d := h.deployment(release); d.Status.AvailableReplicas != 2 {
		t.Errorf("upgrade did not wait for the deployment: %+v", d.Status)
	}

	// An image that is not there: the upgrade gives up, and the next is as before it.
	h.refused("", "upgrade", release, "testdata/chart", "--set", "image=muster.local/missing:1", "--wait", "--timeout", "3s", "--server-side="+serverSide)
	h.wantHistory(release, "1 superseded", "2 deployed", "3 failed")
	h.run("rollback", release, "1", "--wait", "--timeout", "2m", "--server-side="+serverSide)
	h.wantHistory(release, "1 superseded", "2 superseded", "3 failed", "4 deployed")
	h.wantConfig(release, map[string]string{"color": "green", "revision": "1"})
	if d := h.deployment(release); *d.Spec.Replicas != 1 || d.Spec.Template.Spec.Containers[0].Image != "muster.local/hello:1" || d.Status.AvailableReplicas != 1 {
		t.Errorf("after the rollback the deployment is %+v, %+v", d.Spec, d.Status)
	}
	if got := h.releases(); len(got) != 4 {
		t.Errorf("helm remembers %q, want four revisions", got)
	}

	if serverSide == "true" {
		h.conflict(release)
	}
	var list []struct{ Name, Status string }
	if err := json.Unmarshal([]byte(h.run("list", "--output", "json")), &list); err != nil || len(list) != 1 || list[0].Name != release || list[0].Status != "deployed" {
		t.Errorf("list: %+v, %v", list, err)
	}
	if out := h.run("get", "manifest", release); !strings.Contains(out, "kind: Deployment") {
		t.Errorf("manifest:\n%s", out)
	}

	h.run("uninstall", release, "--wait", "--timeout", "2m")
	h.wantConfig(release, nil)
	if pods, err := h.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + release}); err != nil || len(pods.Items) != 0 {
		t.Errorf("%d pods are left: %v", len(pods.Items), err)
	}
	if got := h.releases(); len(got) != 0 {
		t.Errorf("helm remembers %q, want nothing", got)
	}
	if h.defined("orders."+release+".example.org") || !h.defined("gadgets.shop.example.org") {
		t.Error("want the definition that was a template gone, and the one in crds to stay")
	}
	h.wantNoJobs()
}

// wantNoJobs: hooks that succeeded are deleted.
func (h *helm) wantNoJobs() {
	h.t.Helper()
	jobs, err := h.client.BatchV1().Jobs(namespace).List(h.t.Context(), metav1.ListOptions{})
	if err != nil || len(jobs.Items) != 0 {
		h.t.Errorf("%d jobs are left of hooks: %v", len(jobs.Items), err)
	}
}

// conflict: what somebody else has set since is not overwritten unless that is asked for.
func (h *helm) conflict(release string) {
	h.t.Helper()
	_, err := h.client.CoreV1().ConfigMaps(namespace).Apply(h.t.Context(),
		corev1apply.ConfigMap(release, namespace).WithData(map[string]string{"color": "red"}), metav1.ApplyOptions{FieldManager: "somebody", Force: true})
	if err != nil {
		h.t.Fatal(err)
	}
	h.refused(`conflict with "somebody"`, "upgrade", release, "testdata/chart", "--set", "color=blue")
	h.run("upgrade", release, "testdata/chart", "--set", "color=blue", "--force-conflicts")
	h.wantConfig(release, map[string]string{"color": "blue", "revision": "6"})
}
