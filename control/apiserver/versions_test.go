package apiserver

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// One autoscaler is made, changed, watched and deleted in two versions at a
// time. What could go wrong: a client gets bytes or fields of the version that
// it did not ask for, or what the older version has no fields for is lost.
func TestAnObjectIsOneInEveryVersion(t *testing.T) {
	for _, media := range []string{mediaJSON, mediaProtobuf} {
		t.Run(media, func(t *testing.T) {
			f := newFixture(t)
			ctx := t.Context()
			client := f.client(f.admin(), media)
			old, current := client.AutoscalingV1().HorizontalPodAutoscalers("default"), client.AutoscalingV2().HorizontalPodAutoscalers("default")
			watchOld, err := old.Watch(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer watchOld.Stop()
			watchNew, err := current.Watch(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer watchNew.Stop()
			told := func(kind watch.EventType, percent int32) {
				t.Helper()
				before, ok := wantEvent(t, watchOld, kind, "web").(*autoscalingv1.HorizontalPodAutoscaler)
				if !ok || before.Spec.TargetCPUUtilizationPercentage == nil || *before.Spec.TargetCPUUtilizationPercentage != percent {
					t.Errorf("v1 was told %+v, want %d %%", before, percent)
				}
				after, ok := wantEvent(t, watchNew, kind, "web").(*autoscalingv2.HorizontalPodAutoscaler)
				if !ok || len(after.Spec.Metrics) == 0 || *after.Spec.Metrics[0].Resource.Target.AverageUtilization != percent {
					t.Errorf("v2 was told %+v, want %d %%", after, percent)
				}
			}

			created, err := old.Create(ctx, &autoscalingv1.HorizontalPodAutoscaler{
				ObjectMeta: metav1.ObjectMeta{Name: "web"},
				Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
					ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
					MaxReplicas:    5, TargetCPUUtilizationPercentage: new(int32(40)),
				},
			}, metav1.CreateOptions{})
			if err != nil || *created.Spec.TargetCPUUtilizationPercentage != 40 || *created.Spec.MinReplicas != 1 {
				t.Fatalf("created %+v, %v", created, err)
			}
			told(watch.Added, 40)

			// What v1 has no fields for survives a change in v1.
			patched, err := current.Patch(ctx, "web", types.StrategicMergePatchType,
				[]byte(`{"spec":{"behavior":{"scaleDown":{"stabilizationWindowSeconds":7}}}}`), metav1.PatchOptions{})
			if err != nil || *patched.Spec.Behavior.ScaleDown.StabilizationWindowSeconds != 7 {
				t.Fatalf("patched in v2 %+v, %v", patched, err)
			}
			told(watch.Modified, 40)
			before, err := old.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec":{"targetCPUUtilizationPercentage":60}}`), metav1.PatchOptions{})
			if err != nil || *before.Spec.TargetCPUUtilizationPercentage != 60 || before.Annotations[autoscalingv1BehaviorAnnotation] == "" {
				t.Fatalf("patched in v1 %+v, %v", before, err)
			}
			told(watch.Modified, 60)
			after, err := current.Get(ctx, "web", metav1.GetOptions{})
			if err != nil || after.ResourceVersion != before.ResourceVersion || after.UID != created.UID ||
				after.Spec.Behavior == nil || *after.Spec.Behavior.ScaleDown.StabilizationWindowSeconds != 7 || len(after.Annotations) != 0 {
				t.Errorf("in v2 %+v, %v, want version %s with its behaviour", after, err, before.ResourceVersion)
			}

			// A write of what was read is none, in either version.
			if same, err := old.Update(ctx, before, metav1.UpdateOptions{}); err != nil || same.ResourceVersion != before.ResourceVersion {
				t.Errorf("written back in v1: version %s, %v, want %s", same.ResourceVersion, err, before.ResourceVersion)
			}
			before.Status.CurrentReplicas = 2
			if before, err = old.UpdateStatus(ctx, before, metav1.UpdateOptions{}); err != nil || before.Status.CurrentReplicas != 2 {
				t.Errorf("status in v1 %+v, %v, want 2 replicas", before, err)
			}
			told(watch.Modified, 60)
			list, err := old.List(ctx, metav1.ListOptions{})
			if err != nil || len(list.Items) != 1 || list.Items[0].Status.CurrentReplicas != 2 || list.Items[0].Kind != "" {
				t.Errorf("listed in v1 %+v, %v, want the one with 2 replicas", list, err)
			}
			before.Spec.MaxReplicas = 0
			if _, err := old.Update(ctx, before, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
				t.Errorf("no replicas in v1: %v, want it refused", err)
			}
			if err := old.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			told(watch.Deleted, 60)
			if _, err := current.Get(ctx, "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("after a delete in v1: %v, want it gone in v2", err)
			}
		})
	}
}

const autoscalingv1BehaviorAnnotation = "autoscaling.alpha.kubernetes.io/behavior"

func TestEventsAreThoseOfBothGroups(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	client := f.client(f.admin(), mediaJSON)
	event := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e", Namespace: "default"}, EventTime: metav1.NowMicro(), Type: "Normal",
		Action: "Starting", Reason: "Started", ReportingController: "example.org/c", ReportingInstance: "c-1",
		Regarding: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web"}, Note: "hello",
	}
	if _, err := client.EventsV1().Events("default").Create(ctx, event, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	core, err := client.CoreV1().Events("default").Get(ctx, "e", metav1.GetOptions{})
	if err != nil || core.Message != "hello" || core.InvolvedObject.Name != "web" || core.ReportingController != "example.org/c" {
		t.Errorf("in core/v1 %+v, %v, want the note as its message", core, err)
	}
	incomplete := event.DeepCopy()
	incomplete.Name, incomplete.Action = "f", ""
	if _, err := client.EventsV1().Events("default").Create(ctx, incomplete, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("without an action: %v, want it refused as events.k8s.io does", err)
	}
	if _, err := client.CoreV1().Events("default").Create(ctx, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "old"}, InvolvedObject: corev1.ObjectReference{Kind: "Node", Namespace: "default", Name: "n"}, Reason: "Ready",
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Each group has names of its own for what can be selected.
	for selector, want := range map[string]string{"regarding.kind=Pod": "e", "regarding.name=n": "old", "reason=Started": "e", "reportingController=example.org/c": "e"} {
		list, err := client.EventsV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: selector})
		if err != nil || len(list.Items) != 1 || list.Items[0].Name != want {
			t.Errorf("%s: %+v, %v, want %s", selector, list, err, want)
		}
		if strings.HasPrefix(selector, "regarding") {
			if _, err := client.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: selector}); !apierrors.IsBadRequest(err) {
				t.Errorf("%s of core/v1: %v, want a bad request", selector, err)
			}
		}
	}
	if _, err := client.EventsV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=n"}); !apierrors.IsBadRequest(err) {
		t.Errorf("involvedObject of events.k8s.io: %v, want a bad request", err)
	}
	selected, err := client.EventsV1().Events("default").Watch(ctx, metav1.ListOptions{FieldSelector: "regarding.kind=Node", ResourceVersion: core.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer selected.Stop()
	wantEvent(t, selected, watch.Added, "old")
}

func TestVersionsInTheFormsThatKubectlAsksFor(t *testing.T) {
	f := newFixture(t)
	const body = `{"metadata":{"name":"web"},"spec":{"scaleTargetRef":{"apiVersion":"apps/v1","kind":"Deployment","name":"web"},"maxReplicas":5,"targetCPUUtilizationPercentage":40}}`
	const path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"
	if got := f.do(f.admin(), "POST", path, body, "Content-Type", mediaJSON); got.code != http.StatusCreated {
		t.Fatalf("%d %s", got.code, got.body)
	}
	var table metav1.Table
	f.do(f.admin(), "GET", path+"?includeObject=Object", "", "Accept", "application/json;as=Table;g=meta.k8s.io;v=v1").into(t, &table)
	if len(table.Rows) != 1 || !strings.Contains(string(table.Rows[0].Object.Raw), `"apiVersion":"autoscaling/v1"`) {
		t.Errorf("table %+v, want a row of v1", table)
	}
	if got := fmt.Sprint(table.Rows[0].Cells[:2]); got != "[web Deployment/web]" {
		t.Errorf("cells %s, want upstream's columns", got)
	}
	var partial metav1.PartialObjectMetadataList
	f.do(f.admin(), "GET", path, "", "Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").into(t, &partial)
	if len(partial.Items) != 1 || partial.Items[0].Name != "web" {
		t.Errorf("metadata %+v, want web's", partial)
	}
	for _, accept := range []string{mediaYAML, mediaJSON} {
		got := f.do(f.admin(), "GET", path+"/web", "", "Accept", accept)
		if !strings.Contains(string(got.body), "autoscaling/v1") || !strings.Contains(string(got.body), "targetCPUUtilizationPercentage") {
			t.Errorf("%s: %s, want v1", accept, got.body)
		}
	}
	var group metav1.APIGroup
	f.do(f.admin(), "GET", "/apis/autoscaling", "").into(t, &group)
	if group.PreferredVersion.Version != "v2" || len(group.Versions) != 2 || group.Versions[1].Version != "v1" {
		t.Errorf("autoscaling %+v, want v2 before v1", group)
	}
	if got := f.do(f.admin(), "GET", "/apis/autoscaling/v3/namespaces/default/horizontalpodautoscalers", ""); got.code != http.StatusNotFound {
		t.Errorf("v3: %d, want 404", got.code)
	}
}
