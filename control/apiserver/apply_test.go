package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const applyYAML = "application/apply-patch+yaml"

// managers are who owns fields of an object, and which: "kubectl Apply f:…".
func managers(obj metav1.Object) []string {
	var all []string
	for _, m := range obj.GetManagedFields() {
		name := m.Manager + " " + string(m.Operation)
		if m.Subresource != "" {
			name += "/" + m.Subresource
		}
		all = append(all, name+" "+m.FieldsV1.GetRawString())
	}
	return all
}

func (f *fixture) apply(path, manager, body string) (answer, *corev1.Pod) {
	f.t.Helper()
	got := f.do(f.admin(), http.MethodPatch, path+"?fieldManager="+manager, body, "Content-Type", applyYAML)
	pod := &corev1.Pod{}
	if got.code < 300 {
		got.into(f.t, pod)
	}
	return got, pod
}

// A pod is made, changed and given up by server-side apply, and other writers
// come in between. What could go wrong: a field that two want is overwritten in
// silence, or one that nobody wants any more stays.
func TestServerSideApplyKeepsOwners(t *testing.T) {
	f := newFixture(t)
	const path = "/api/v1/namespaces/default/pods/web"
	const config = `
apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {app: web, tier: front}
spec:
  containers:
  - {name: web, image: "example.org/web:1"}
`
	got, pod := f.apply(path, "kubectl", config)
	if got.code != http.StatusCreated || pod.UID == "" || pod.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Fatalf("applied what is not there: %d %s, want 201 and a pod with defaults", got.code, got.body)
	}
	want := []string{`kubectl Apply {"f:metadata":{"f:labels":{"f:app":{},"f:tier":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"web\"}":{".":{},"f:image":{},"f:name":{}}}}}`}
	if m := managers(pod); !slices.Equal(m, want) {
		t.Errorf("owners %q, want %q", m, want)
	}

	got, again := f.apply(path, "kubectl", config)
	if got.code != http.StatusOK || again.ResourceVersion != pod.ResourceVersion {
		t.Errorf("applied again: %d at version %s, want 200 and still %s", got.code, again.ResourceVersion, pod.ResourceVersion)
	}

	// An update in between takes the image over.
	client := f.client(f.admin(), mediaJSON).CoreV1().Pods("default")
	if _, err := client.Patch(t.Context(), "web", types.StrategicMergePatchType,
		[]byte(`{"spec":{"containers":[{"name":"web","image":"example.org/web:2"}]}}`), metav1.PatchOptions{FieldManager: "robot"}); err != nil {
		t.Fatal(err)
	}
	got, _ = f.apply(path, "kubectl", config)
	status := got.status(t)
	cause := metav1.StatusCause{Type: metav1.CauseTypeFieldManagerConflict, Message: `conflict with "robot" using v1`, Field: `.spec.containers[name="web"].image`}
	if status.Code != http.StatusConflict || status.Reason != metav1.StatusReasonConflict ||
		status.Message != `Apply failed with 1 conflict: conflict with "robot" using v1: .spec.containers[name="web"].image` ||
		status.Details == nil || !slices.Contains(status.Details.Causes, cause) {
		t.Errorf("applied over another's field: %+v, want a conflict with the cause %+v", status, cause)
	}

	got, _ = f.apply(path, "kubectl", strings.Replace(config, "name: web\n", "name: web\n  resourceVersion: \"1\"\n", 1))
	if got.code != http.StatusConflict {
		t.Errorf("applied to version 1: %d %s, want a conflict", got.code, got.body)
	}

	// With force, and without one of the labels, which nobody else wants.
	got, pod = f.apply(path, "kubectl&force=true", strings.Replace(config, ", tier: front", "", 1))
	if got.code != http.StatusOK || pod.Spec.Containers[0].Image != "example.org/web:1" {
		t.Errorf("forced: %d %s, want the image of the configuration", got.code, got.body)
	}
	if _, there := pod.Labels["tier"]; there || pod.Labels["app"] != "web" {
		t.Errorf("labels %v, want app alone: tier was given up", pod.Labels)
	}
	if m := managers(pod); len(m) != 1 {
		t.Errorf("owners %q, want kubectl alone: robot has lost its only field", m)
	}

	// A dry run is not stored, and answers what would be.
	got, dry := f.apply(path, "second&dryRun=All", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"app":"web"}}}`)
	if stored := f.pod("web"); got.code != http.StatusOK || len(managers(dry)) != 2 || stored.ResourceVersion != pod.ResourceVersion {
		t.Errorf("dry run: %d, owners %q, stored at %s, want two owners and nothing stored after %s", got.code, managers(dry), stored.ResourceVersion, pod.ResourceVersion)
	}

	// The status is another's affair, through its own path.
	got, pod = f.apply(path+"/status", "kubelet", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"nodeName":"n1"},"status":{"message":"hello"}}`)
	if got.code != http.StatusOK || pod.Status.Message != "hello" || pod.Spec.NodeName != "" {
		t.Errorf("status applied: %d %s, want the message and no node", got.code, got.body)
	}
	if m := managers(pod); len(m) != 2 || m[1] != `kubelet Apply/status {"f:status":{"f:message":{}}}` {
		t.Errorf("owners %q, want the kubelet with its status alone", m)
	}
}

func (f *fixture) pod(name string) *corev1.Pod {
	f.t.Helper()
	pod, err := f.client(f.admin(), mediaJSON).CoreV1().Pods("default").Get(f.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	return pod
}

func TestWritesRecordWhoseFieldsTheyAre(t *testing.T) {
	f := newFixture(t)
	const pods = "/api/v1/namespaces/default/pods"
	admin := f.admin()
	f.do(admin, "POST", pods, podJSON, "Content-Type", mediaJSON, "User-Agent", "kub\u00adectl/v1.37 (linux)")
	created := f.pod("web")
	if m := created.ManagedFields; len(m) != 1 || m[0].Manager != "kubectl" || m[0].Operation != "Update" || m[0].APIVersion != "v1" || m[0].Time == nil {
		t.Fatalf("owners after a create %+v, want kubectl, as its User-Agent says", m)
	}

	patch := func(path, contentType, body string) *corev1.Pod {
		t.Helper()
		if got := f.do(admin, "PATCH", path, body, "Content-Type", contentType); got.code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, got.code, got.body)
		}
		return f.pod("web")
	}
	const merge = "application/merge-patch+json"
	same := patch(pods+"/web?fieldManager=other", merge, `{"spec":{"containers":[{"name":"web","image":"x"}]}}`)
	if same.ResourceVersion != created.ResourceVersion {
		t.Errorf("a patch that changes nothing made version %s of %s", same.ResourceVersion, created.ResourceVersion)
	}
	pod := patch(pods+"/web/status?fieldManager=kubelet", merge, `{"status":{"phase":"Running"},"metadata":{"labels":{"a":"b"}}}`)
	if m := managers(pod); len(m) != 2 || m[1] != `kubelet Update/status {"f:metadata":{"f:labels":{".":{},"f:a":{}}},"f:status":{"f:phase":{}}}` {
		t.Errorf("owners %q, want the kubelet with what it changed", m)
	}

	// What a client sends back counts; what makes no sense does not.
	for _, c := range []struct {
		name, fields string
		owners       int
	}{
		{"garbage", `[{"manager":"x","operation":"Steal"}]`, 2},
		{"none", `[]`, 0},
	} {
		body := fmt.Sprintf(`{"metadata":{"managedFields":%s}}`, c.fields)
		if m := managers(patch(pods+"/web?fieldManager=x", merge, body)); len(m) != c.owners {
			t.Errorf("%s: owners %q, want %d", c.name, m, c.owners)
		}
	}
}

// kubectl scale on a workload that is applied: whoever scales takes over the
// count and nothing else.
func TestScaleTakesOverTheCount(t *testing.T) {
	f := newFixture(t)
	const path = "/api/v1/namespaces/default/replicationcontrollers/web"
	rc := `{"apiVersion":"v1","kind":"ReplicationController","metadata":{"name":"web"},"spec":{"replicas":1,"selector":{"app":"web"},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"name":"web","image":"x"}]}}}}`
	if got := f.do(f.admin(), "PATCH", path+"?fieldManager=kubectl", rc, "Content-Type", applyYAML); got.code != http.StatusCreated {
		t.Fatalf("%d %s", got.code, got.body)
	}
	owner := func() string {
		t.Helper()
		var stored corev1.ReplicationController
		f.do(f.admin(), "GET", path, "").into(t, &stored)
		for _, m := range stored.ManagedFields {
			var fields struct {
				Spec map[string]any `json:"f:spec"`
			}
			if err := json.Unmarshal(m.FieldsV1.GetRawBytes(), &fields); err != nil {
				t.Fatal(err)
			}
			if _, ok := fields.Spec["f:replicas"]; ok {
				return fmt.Sprint(m.Manager, " ", m.Operation, " ", m.Subresource, " ", m.APIVersion)
			}
		}
		return "nobody"
	}
	if got := f.do(f.admin(), "PATCH", path+"/scale?fieldManager=scaler", `{"spec":{"replicas":3}}`, "Content-Type", "application/merge-patch+json"); got.code != http.StatusOK {
		t.Fatalf("%d %s", got.code, got.body)
	}
	if got, want := owner(), "scaler Update scale v1"; got != want {
		t.Errorf("the count belongs to %q, want %q", got, want)
	}
	scale := `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"web"},"spec":{"replicas":5}}`
	got := f.do(f.admin(), "PATCH", path+"/scale?fieldManager=hpa", scale, "Content-Type", applyYAML)
	if got.code != http.StatusConflict {
		t.Errorf("a scale applied over another's: %d %s, want a conflict", got.code, got.body)
	}
	got = f.do(f.admin(), "PATCH", path+"/scale?fieldManager=hpa&force=true", scale, "Content-Type", applyYAML)
	if got.code != http.StatusOK {
		t.Errorf("forced: %d %s", got.code, got.body)
	}
	if got, want := owner(), "hpa Apply scale v1"; got != want {
		t.Errorf("the count belongs to %q, want %q", got, want)
	}
	if got := f.do(f.admin(), "PATCH", strings.Replace(path, "web", "none", 1)+"/scale?fieldManager=hpa", strings.Replace(scale, "web", "none", 1), "Content-Type", applyYAML); got.code != http.StatusNotFound {
		t.Errorf("a scale of nothing: %d, want 404", got.code)
	}
}
