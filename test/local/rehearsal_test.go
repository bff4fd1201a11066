package local

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

const boats = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"boats.sea.example.org"},"spec":{
	"group":"sea.example.org","scope":"Namespaced","names":{"plural":"boats","singular":"boat","kind":"Boat","listKind":"BoatList"},
	"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":{"type":"object","properties":{"masts":{"type":"integer","maximum":5}}}}}]}}`

// Dry runs in a rehearsal are seen by those after them, with what controllers would have
// made of them, and by nobody else: the namespace's service account lets its pods in, a
// definition's objects are held against its schema, a quota counts.
func TestRehearsalsAreSeenByThemselvesAlone(t *testing.T) {
	c := start(t)
	scheduler := clusterv1.NewSchedulerClient(c.operator(c.leader()))
	begin := func() func(method, uri, body string) (int, string) {
		t.Helper()
		stream, err := scheduler.Rehearse(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if first, err := stream.Recv(); err != nil || first.Revision == 0 {
			t.Fatalf("got %v, %v, want the revision of the copy", first, err)
		}
		return func(method, uri, body string) (int, string) {
			t.Helper()
			if err := stream.Send(&clusterv1.RehearseRequest{Method: method, Uri: uri, Body: []byte(body), Headers: map[string]string{"Content-Type": "application/json"}}); err != nil {
				t.Fatal(err)
			}
			answer, err := stream.Recv()
			if err != nil {
				return 0, err.Error()
			}
			return int(answer.Status), string(answer.Body)
		}
	}
	ask := begin()
	const pod = `{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"p-"},"spec":{"containers":[{"name":"m","image":"i"}]}}`
	for _, step := range []struct {
		uri, body string
		status    int
		says      string
	}{
		{"/api/v1/namespaces/shop/pods", pod, http.StatusNotFound, "shop"},
		{"/api/v1/namespaces", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"shop"}}`, http.StatusCreated, ""},
		{"/api/v1/namespaces/shop/resourcequotas", `{"apiVersion":"v1","kind":"ResourceQuota","metadata":{"name":"q"},"spec":{"hard":{"pods":"1"}}}`, http.StatusCreated, ""},
		{"/api/v1/namespaces/shop/pods", pod, http.StatusCreated, `"serviceAccountName":"default"`},
		{"/api/v1/namespaces/shop/pods", pod, http.StatusForbidden, "exceeded quota"},
		{"/apis/apiextensions.k8s.io/v1/customresourcedefinitions", boats, http.StatusCreated, ""},
		{"/apis/sea.example.org/v1/namespaces/shop/boats", `{"apiVersion":"sea.example.org/v1","kind":"Boat","metadata":{"name":"b"},"masts":3}`, http.StatusCreated, ""},
		{"/apis/sea.example.org/v1/namespaces/shop/boats", `{"apiVersion":"sea.example.org/v1","kind":"Boat","metadata":{"name":"c"},"masts":9}`, http.StatusUnprocessableEntity, "masts"},
	} {
		if status, body := ask(http.MethodPost, step.uri+"?dryRun=All", step.body); status != step.status || !strings.Contains(body, step.says) {
			t.Fatalf("POST %s: got %d, %s; want %d, %q", step.uri, status, body, step.status, step.says)
		}
	}
	if status, _ := ask(http.MethodGet, "/api/v1/namespaces/shop", ""); status != http.StatusOK {
		t.Errorf("the namespace is not seen in the rehearsal: %d", status)
	}
	if status, _ := begin()(http.MethodGet, "/api/v1/namespaces/shop", ""); status != http.StatusNotFound {
		t.Errorf("the namespace is seen in another: %d", status)
	}
	real, err := kubernetes.NewForConfig(c.Config(c.leader()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := real.CoreV1().Namespaces().Get(t.Context(), "shop", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the namespace is seen in the cluster: %v", err)
	}
	// A list that is cut short ends the rehearsal, and nothing else.
	large := strings.Repeat("x", 1_000_000)
	for i := range 9 {
		body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"large-%d"},"data":{"a":%q}}`, i, large)
		if status, body := ask(http.MethodPost, "/api/v1/namespaces/shop/configmaps?dryRun=All", body); status != http.StatusCreated {
			t.Fatalf("got %d, %s", status, body)
		}
	}
	if status, message := ask(http.MethodGet, "/api/v1/namespaces/shop/configmaps", ""); status != 0 || !strings.Contains(message, "ResourceExhausted") {
		t.Errorf("a list of 9 MB: got %d, %.200s; want it refused", status, message)
	}
	// What would last, or is meant for real.
	for _, refused := range []string{"POST /api/v1/namespaces", "DELETE /api/v1/namespaces/shop", "GET /api/v1/pods?watch=true", "GET /api/v1/namespaces/a/pods/b/log?follow=true"} {
		method, uri, _ := strings.Cut(refused, " ")
		if status, message := begin()(method, uri, ""); status != 0 || !strings.Contains(message, "InvalidArgument") {
			t.Errorf("%s: got %d, %s; want it refused", refused, status, message)
		}
	}
}
