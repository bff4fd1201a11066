package apiserver

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// The whole life of an object through client-go, in both forms that clients
// use. What could go wrong: a path, a form or a status that differs from
// upstream's in a way that only a real client notices.
func TestClientGoLivesWithEveryVerb(t *testing.T) {
	for _, media := range []string{mediaJSON, mediaProtobuf} {
		t.Run(media, func(t *testing.T) {
			f := newFixture(t)
			ctx := t.Context()
			pods := f.client(f.admin(), media).CoreV1().Pods("default")

			created, err := pods.Create(ctx, newPod("web"), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if created.UID == "" || created.ResourceVersion == "" || created.Spec.RestartPolicy != corev1.RestartPolicyAlways || created.Status.Phase != corev1.PodPending {
				t.Errorf("created without uid, version, defaults or status: %+v", created)
			}
			if _, err := pods.Create(ctx, newPod("web"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
				t.Errorf("created again: %v, want AlreadyExists", err)
			}
			generated, err := pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{GenerateName: "web-"}, Spec: newPod("").Spec}, metav1.CreateOptions{})
			if err != nil || !strings.HasPrefix(generated.Name, "web-") || len(generated.Name) != len("web-")+5 {
				t.Errorf("generated name %q, %v", generated.GetName(), err)
			}

			got, err := pods.Get(ctx, "web", metav1.GetOptions{})
			if err != nil || got.UID != created.UID || got.ResourceVersion != created.ResourceVersion {
				t.Errorf("got %v, %v, want what was created", got, err)
			}
			if _, err := pods.Get(ctx, "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) || err.Error() != `pods "none" not found` {
				t.Errorf("get of nothing: %v", err)
			}
			list, err := pods.List(ctx, metav1.ListOptions{})
			if err != nil || len(list.Items) != 2 || list.Items[0].Name != "web" || list.ResourceVersion == "" {
				t.Fatalf("list: %v, %v, want two pods", list, err)
			}
			if list.Items[0].ResourceVersion != created.ResourceVersion {
				t.Errorf("listed at version %q, want %q", list.Items[0].ResourceVersion, created.ResourceVersion)
			}

			got.Labels = map[string]string{"app": "web"}
			updated, err := pods.Update(ctx, got, metav1.UpdateOptions{})
			if err != nil || updated.Labels["app"] != "web" {
				t.Fatalf("update: %v, %v", updated, err)
			}
			if _, err := pods.Update(ctx, got, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
				t.Errorf("update of an old version: %v, want Conflict", err)
			}
			updated.Status.Phase = corev1.PodRunning
			if updated, err = pods.UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil || updated.Status.Phase != corev1.PodRunning {
				t.Errorf("update status: %v, %v", updated, err)
			}
			for kind, patch := range map[types.PatchType]string{
				types.MergePatchType:          `{"metadata":{"annotations":{"merge":"1"}}}`,
				types.JSONPatchType:           `[{"op":"add","path":"/metadata/labels/json","value":"1"}]`,
				types.StrategicMergePatchType: `{"spec":{"containers":[{"name":"web","image":"example.org/web:2"}]}}`,
			} {
				if _, err := pods.Patch(ctx, "web", kind, []byte(patch), metav1.PatchOptions{}); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
			}
			got, err = pods.Get(ctx, "web", metav1.GetOptions{})
			if err != nil || got.Annotations["merge"] != "1" || got.Labels["json"] != "1" || got.Labels["app"] != "web" || got.Spec.Containers[0].Image != "example.org/web:2" {
				t.Errorf("after patches: %+v, %v", got, err)
			}

			if err := pods.Delete(ctx, "web", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("other")}); !apierrors.IsConflict(err) {
				t.Errorf("delete of another uid: %v, want Conflict", err)
			}
			if err := pods.Delete(ctx, "web", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(got.UID))}); err != nil {
				t.Error(err)
			}
			if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
				t.Error(err)
			}
			if list, err = pods.List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
				t.Errorf("after deleting all: %v, %v", list, err)
			}
		})
	}
}

func TestBindingAndScale(t *testing.T) {
	for _, media := range []string{mediaJSON, mediaProtobuf} {
		t.Run(media, func(t *testing.T) {
			f := newFixture(t)
			ctx := t.Context()
			client := f.client(f.admin(), media).CoreV1()
			if _, err := client.Pods("default").Create(ctx, newPod("web"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
			if err := client.Pods("default").Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := client.Pods("default").Bind(ctx, binding, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
				t.Errorf("bound twice: %v, want Conflict", err)
			}
			list, err := client.Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"})
			if err != nil || len(list.Items) != 1 {
				t.Errorf("pods of n1: %v, %v, want one", list, err)
			}

			rc := &corev1.ReplicationController{
				ObjectMeta: metav1.ObjectMeta{Name: "web"},
				Spec: corev1.ReplicationControllerSpec{Selector: map[string]string{"app": "web"}, Template: &corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}}, Spec: newPod("").Spec,
				}},
			}
			rcs := client.ReplicationControllers("default")
			if _, err := rcs.Create(ctx, rc, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			scale, err := rcs.GetScale(ctx, "web", metav1.GetOptions{})
			if err != nil || scale.Spec.Replicas != 1 || scale.Status.Selector != "app=web" {
				t.Fatalf("scale %+v, %v, want one replica of app=web", scale, err)
			}
			scale.Spec.Replicas = 3
			if scale, err = rcs.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{}); err != nil || scale.Spec.Replicas != 3 {
				t.Errorf("scaled: %+v, %v, want 3", scale, err)
			}
			if _, err := rcs.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec":{"replicas":5}}`), metav1.PatchOptions{}, "scale"); err != nil {
				t.Error(err)
			}
			got, err := rcs.Get(ctx, "web", metav1.GetOptions{})
			if err != nil || *got.Spec.Replicas != 5 {
				t.Errorf("after a patch of scale: %v, %v, want 5", got, err)
			}
			scale.Spec.Replicas = -1
			scale.ResourceVersion = ""
			if _, err := rcs.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
				t.Errorf("scaled to -1: %v, want Invalid", err)
			}
		})
	}
}

func TestNamespaceFinalizeThroughItsSubresource(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	namespaces := f.client(f.admin(), mediaJSON).CoreV1().Namespaces()
	if _, err := namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := namespaces.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ns, err := namespaces.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || ns.Status.Phase != corev1.NamespaceTerminating {
		t.Fatalf("deleted namespace: %+v, %v, want Terminating", ns, err)
	}
	ns.Spec.Finalizers = nil
	if _, err := namespaces.Finalize(ctx, ns, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := namespaces.Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("finalized namespace: %v, want NotFound", err)
	}
}

func TestDryRunStoresNothing(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	pods := f.client(f.admin(), mediaJSON).CoreV1().Pods("default")
	dry := []string{metav1.DryRunAll}
	if _, err := pods.Create(ctx, newPod("web"), metav1.CreateOptions{DryRun: dry}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after a dry create: %v, want NotFound", err)
	}
	if _, err := pods.Create(ctx, newPod("web"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	before := f.store.Revision()
	if got, err := pods.Patch(ctx, "web", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{DryRun: dry}); err != nil || got.Labels["a"] != "b" {
		t.Errorf("dry patch: %v, %v, want the label", got, err)
	}
	if err := pods.Delete(ctx, "web", metav1.DeleteOptions{DryRun: dry}); err != nil {
		t.Error(err)
	}
	if got := f.store.Revision(); got != before {
		t.Errorf("revision %d after dry runs, want %d", got, before)
	}
	if got := f.do(f.admin(), "DELETE", "/api/v1/namespaces/default/pods/web?dryRun=Some", ""); got.code != http.StatusUnprocessableEntity {
		t.Errorf("an unknown dryRun: %d %s, want 422", got.code, got.body)
	}
}

// A client in the middle of a list must see the state of its first page,
// whatever is written meanwhile.
func TestListInPagesIsOfOneRevision(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	pods := f.client(f.admin(), mediaProtobuf).CoreV1().Pods("default")
	for i := range 5 {
		if _, err := pods.Create(ctx, newPod(fmt.Sprintf("p%d", i)), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	first, err := pods.List(ctx, metav1.ListOptions{Limit: 2})
	if err != nil || len(first.Items) != 2 || first.Continue == "" || first.RemainingItemCount == nil || *first.RemainingItemCount != 3 {
		t.Fatalf("first page: %d items, %+v, %v", len(first.Items), first.ListMeta, err)
	}
	if err := pods.Delete(ctx, "p3", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	rest, err := pods.List(ctx, metav1.ListOptions{Limit: 10, Continue: first.Continue})
	if err != nil || len(rest.Items) != 3 || rest.ResourceVersion != first.ResourceVersion || rest.Continue != "" {
		t.Errorf("second page: %d items of revision %s, %v, want 3 of %s", len(rest.Items), rest.ResourceVersion, err, first.ResourceVersion)
	}
	if _, err := pods.List(ctx, metav1.ListOptions{Continue: "nonsense"}); !apierrors.IsBadRequest(err) {
		t.Errorf("an invalid token: %v, want BadRequest", err)
	}
}

func TestSelectorsOnLists(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	pods := f.client(f.admin(), mediaJSON).CoreV1().Pods("default")
	for i, app := range []string{"a", "a", "b"} {
		pod := newPod(fmt.Sprintf("p%d", i))
		pod.Labels = map[string]string{"app": app}
		if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		options metav1.ListOptions
		want    int
	}{
		{metav1.ListOptions{LabelSelector: "app=a"}, 2},
		{metav1.ListOptions{LabelSelector: "app in (b,c)"}, 1},
		{metav1.ListOptions{FieldSelector: "metadata.name=p1"}, 1},
		{metav1.ListOptions{FieldSelector: "status.phase!=Pending"}, 0},
		{metav1.ListOptions{LabelSelector: "app=a", FieldSelector: "metadata.name!=p1"}, 1},
	} {
		list, err := pods.List(ctx, c.options)
		if err != nil || len(list.Items) != c.want {
			t.Errorf("%+v: %d, %v, want %d", c.options, len(list.Items), err, c.want)
		}
	}
	if _, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.colour=red"}); !apierrors.IsBadRequest(err) {
		t.Errorf("an unknown field: %v, want BadRequest", err)
	}
	if _, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "a b"}); !apierrors.IsBadRequest(err) {
		t.Errorf("a bad selector: %v, want BadRequest", err)
	}
}

func TestResourceVersionsOfReads(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	pods := f.client(f.admin(), mediaJSON).CoreV1().Pods("default")
	created, err := pods.Create(ctx, newPod("web"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	barriers := f.log.Barriers()
	if _, err := pods.Get(ctx, "web", metav1.GetOptions{ResourceVersion: "0"}); err != nil || f.log.Barriers() != barriers {
		t.Errorf("resourceVersion=0: %v, %d barriers, want none", err, f.log.Barriers()-barriers)
	}
	if _, err := pods.Get(ctx, "web", metav1.GetOptions{}); err != nil || f.log.Barriers() != barriers+1 {
		t.Errorf("no resourceVersion: %v, %d barriers, want one", err, f.log.Barriers()-barriers)
	}
	if _, err := pods.Get(ctx, "web", metav1.GetOptions{ResourceVersion: created.ResourceVersion}); err != nil {
		t.Error(err)
	}
	exact, err := pods.List(ctx, metav1.ListOptions{ResourceVersion: created.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if err != nil || exact.ResourceVersion != created.ResourceVersion {
		t.Errorf("exactly %s: %v, %v", created.ResourceVersion, exact, err)
	}
	if _, err := pods.Create(ctx, newPod("another"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	exact, err = pods.List(ctx, metav1.ListOptions{ResourceVersion: created.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if err != nil || exact.ResourceVersion != created.ResourceVersion || len(exact.Items) != 1 {
		t.Errorf("exactly a past revision: %d pods at %s, %v, want the one that was there at %s", len(exact.Items), exact.ResourceVersion, err, created.ResourceVersion)
	}
	anew := f.restored()
	if _, err := anew.client(anew.admin(), mediaJSON).CoreV1().Pods("default").List(ctx, metav1.ListOptions{ResourceVersion: created.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact}); !apierrors.IsResourceExpired(err) {
		t.Errorf("exactly a revision that is forgotten: %v, want Expired", err)
	}
	if _, err := pods.List(ctx, metav1.ListOptions{ResourceVersion: "x"}); err == nil {
		t.Error("resourceVersion=x was accepted")
	}
	if testing.Short() {
		t.Skip("waits 3 s for a revision that does not come")
	}
	// Not with client-go, which would try ten times.
	got := f.do(f.admin(), "GET", "/api/v1/namespaces/default/pods/web?resourceVersion=1000000", "")
	if status := got.status(t); status.Reason != metav1.StatusReasonTimeout || status.Details == nil || len(status.Details.Causes) != 1 || status.Details.Causes[0].Type != metav1.CauseTypeResourceVersionTooLarge {
		t.Errorf("a future revision: %+v, want Timeout with its cause", status)
	}
}

func TestDeleteOptionsOfEveryClient(t *testing.T) {
	f := newFixture(t)
	protobufBody := func(apiVersion string) string {
		options := &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}
		raw, err := options.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return string(protobufEnvelope(schema.FromAPIVersionAndKind(apiVersion, "DeleteOptions"), raw))
	}
	if _, err := f.reg.Create(t.Context(), resource.Pods, "default", newPod("web"), resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ media, body string }{
		{mediaJSON, `{"dryRun":["All"]}`},
		{mediaJSON, `{"kind":"DeleteOptions","apiVersion":"v1","dryRun":["All"]}`},
		{mediaJSON, `{"kind":"DeleteOptions","apiVersion":"meta.k8s.io/v1","dryRun":["All"],"propagationPolicy":"Background"}`},
		{mediaJSON, `{"kind":"DeleteOptions","apiVersion":"apps/v1","dryRun":["All"]}`},
		{mediaYAML, "dryRun: [All]"},
		{mediaProtobuf, protobufBody("v1")},
		{mediaProtobuf, protobufBody("meta.k8s.io/v1")},
	} {
		if got := f.do(f.admin(), "DELETE", "/api/v1/namespaces/default/pods/web", c.body, "Content-Type", c.media); got.code != 200 {
			t.Errorf("%s %.60q: %d %s", c.media, c.body, got.code, got.body)
		}
	}
	if _, err := f.store.Table(store.Pods).Get(t.Context(), "default", "web"); err != nil {
		t.Errorf("after dry deletes: %v; the options were not read", err)
	}
	for _, c := range []struct{ media, body string }{
		{mediaJSON, `{"kind":"Pod"}`}, {mediaProtobuf, "k8s"}, {mediaProtobuf, "k8s\x00\xff"}, {mediaYAML, "[a"},
	} {
		if got := f.do(f.admin(), "DELETE", "/api/v1/namespaces/default/pods/web", c.body, "Content-Type", c.media); got.code != 400 {
			t.Errorf("%s %.60q: %d, want 400", c.media, c.body, got.code)
		}
	}
	// Without a body, the query counts.
	if got := f.do(f.admin(), "DELETE", "/api/v1/namespaces/default/pods/web?gracePeriodSeconds=0", ""); got.code != 200 {
		t.Errorf("options in the query: %d %s", got.code, got.body)
	}
}
