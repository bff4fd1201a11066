package apiserver

import (
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kubectl drain looks for pods/eviction in the old form of discovery, and would
// delete pods past their budgets if it were not there.
func TestPodsAreEvicted(t *testing.T) {
	f := newFixture(t)
	var list metav1.APIResourceList
	f.do(f.admin(), "GET", "/api/v1", "").into(t, &list)
	found := false
	for _, r := range list.APIResources {
		found = found || r.Name == "pods/eviction" && r.Group == "policy" && r.Version == "v1" && r.Kind == "Eviction"
	}
	if !found {
		t.Error("pods/eviction of policy/v1 is not discovered")
	}
	client := f.client(f.admin(), mediaProtobuf)
	for _, name := range []string{"a", "b", "c", "d"} {
		pod := f.bound(name, "n1")
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if _, err := client.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.PolicyV1().Evictions("default").Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}}); err != nil {
		t.Errorf("policy/v1 in protobuf: %v", err)
	}
	const old = `{"apiVersion":"policy/v1beta1","kind":"Eviction","metadata":{"name":"b"}}`
	if got := f.do(f.admin(), "POST", "/api/v1/namespaces/default/pods/b/eviction", old, "Content-Type", mediaJSON); got.code != http.StatusCreated {
		t.Errorf("policy/v1beta1: %d %s, want 201", got.code, got.body)
	}
	if _, err := client.PolicyV1().PodDisruptionBudgets("default").Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got := f.do(f.admin(), "POST", "/api/v1/namespaces/default/pods/c/eviction", `{"metadata":{"name":"c"}}`, "Content-Type", mediaJSON)
	if status := got.status(t); got.code != http.StatusTooManyRequests || got.header.Get("Retry-After") != "10" || status.Details.Causes[0].Type != policyv1.DisruptionBudgetCause {
		t.Errorf("a budget that nobody has counted: %d %s, Retry-After %q; want 429, 10", got.code, got.body, got.header.Get("Retry-After"))
	}
	if got := f.do(f.admin(), "POST", "/api/v1/namespaces/default/pods/d/eviction", podJSON, "Content-Type", mediaJSON); got.code != http.StatusBadRequest {
		t.Errorf("a pod where an eviction should be: %d %s, want 400", got.code, got.body)
	}
	for name, want := range map[string]bool{"a": true, "b": true, "c": false, "d": false} {
		pod, err := client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && pod.DeletionTimestamp != nil != want {
			t.Errorf("%s: %+v, %v; want it going: %t", name, pod, err, want)
		}
	}
}
