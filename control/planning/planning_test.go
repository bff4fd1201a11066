package planning

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/scheduler"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Each kind is planned by its own controller's rules, from what is stored and what would
// be: a kind that nobody looks at would silently have no pods.
func TestEveryKindThatKeepsPodsIsPlanned(t *testing.T) {
	m := test.Begin(t, storetest.New(t))
	test.Create(m, resource.Nodes, test.Node("n1"))
	test.Create(m, resource.Nodes, test.Node("n2"))
	set := test.Create(m, resource.ReplicaSets, test.ReplicaSet("there", 2))
	pod := test.Pod("there-1")
	pod.Labels = set.Labels
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, store.ReplicaSets.Kind)}
	test.Create(m, resource.Pods, pod)
	m.Run()
	app := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
	meta := metav1.ObjectMeta{Namespace: "default", Name: "x", UID: "x"}
	kind := func(apiVersion, kind string) metav1.TypeMeta {
		return metav1.TypeMeta{APIVersion: apiVersion, Kind: kind}
	}
	set.TypeMeta = kind("apps/v1", "ReplicaSet")
	jobs := batchv1.JobSpec{Completions: ptr.To(int32(3)), Parallelism: ptr.To(int32(3))}
	for _, tt := range []struct {
		object any
		come   int
		note   string
	}{
		{&appsv1.Deployment{TypeMeta: kind("apps/v1", "Deployment"), ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: ptr.To(int32(3)), Selector: app}}, 3, ""},
		{set, 1, ""},
		{&corev1.ReplicationController{TypeMeta: kind("v1", "ReplicationController"), ObjectMeta: meta}, 1, ""},
		{&appsv1.StatefulSet{TypeMeta: kind("apps/v1", "StatefulSet"), ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: ptr.To(int32(2)), Selector: app}}, 2, ""},
		{&appsv1.DaemonSet{TypeMeta: kind("apps/v1", "DaemonSet"), ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: app}}, 2, ""},
		{&batchv1.Job{TypeMeta: kind("batch/v1", "Job"), ObjectMeta: meta, Spec: jobs}, 3, ""},
		{&batchv1.CronJob{TypeMeta: kind("batch/v1", "CronJob"), ObjectMeta: meta, Spec: batchv1.CronJobSpec{
			Schedule: "0 5 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: jobs}}}, 3, "next run 2026-01-02T05:00:00Z"},
		{&corev1.Pod{TypeMeta: kind("v1", "Pod"), ObjectMeta: meta}, 1, ""},
		{&corev1.ConfigMap{TypeMeta: kind("v1", "ConfigMap"), ObjectMeta: meta}, -1, ""},
	} {
		raw, err := json.Marshal(tt.object)
		if err != nil {
			t.Fatal(err)
		}
		planned, of, err := Of(m.Caches, []Object{{Object: raw, Like: test.Pod("like")}}, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
		switch {
		case err != nil:
			t.Errorf("%T: %v", tt.object, err)
		case tt.come < 0 && len(of) == 0:
		case len(of) != 1 || len(planned.Outlooks[0].Come) != tt.come || !strings.Contains(strings.Join(planned.Outlooks[0].Notes, "|"), tt.note):
			t.Errorf("%T: got %+v, want %d to come and note %q", tt.object, planned.Outlooks, tt.come, tt.note)
		}
	}
}

// A node that the plan brings or changes counts once.
func TestDaemonsGoToNodesOfThePlan(t *testing.T) {
	m := test.Begin(t, storetest.New(t))
	test.Create(m, resource.Nodes, test.Node("n1"))
	m.Run()
	planned, _, err := Of(m.Caches, []Object{
		{Object: []byte(`{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}}`)},
		{Object: []byte(`{"apiVersion":"v1","kind":"Node","metadata":{"name":"n2"}}`)},
		{Object: []byte(`{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"name":"d","namespace":"default"}}`), Like: test.Pod("like")},
	}, time.Now())
	if err != nil || len(planned.Outlooks) != 1 || len(planned.Outlooks[0].Come) != 2 {
		t.Errorf("got %+v, %v, want two daemons", planned.Outlooks, err)
	}
}

// What is stored beside pods decides about them, too.
func TestOtherObjectsOfThePlanCount(t *testing.T) {
	planned, of, err := Of(controller.NewCaches(storetest.New(t)), []Object{
		{Object: []byte(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a"}}`)},
		{Object: []byte(`{"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"a","namespace":"a"}}`)},
		{Object: []byte(`{"apiVersion":"storage.k8s.io/v1","kind":"StorageClass","metadata":{"name":"a"}}`)},
	}, time.Now())
	if err != nil || len(of) != 0 {
		t.Fatalf("got %v, %v, want no outlook", of, err)
	}
	if also := planned.Also; len(also.Namespaces) != 1 || len(also.Claims) != 1 || len(also.StorageClasses) != 1 {
		t.Errorf("got %+v, want one of each", also)
	}
	if _, _, err := Of(nil, []Object{{Object: []byte(`{"apiVersion":"apps/v1","kind":"Deployment"}`)}}, time.Now()); err == nil {
		t.Error("a Deployment without a pod of its template was taken")
	}
}

// What is asked for is the caller's word: neither more pods than there is memory for nor
// an object that no API would have stored may end the process.
func TestObjectsThatCannotBePlannedAreRefused(t *testing.T) {
	m := test.Begin(t, storetest.New(t))
	test.Create(m, resource.Nodes, test.Node("n1"))
	m.Run()
	for _, tt := range []struct {
		object string
		times  int
		want   error // nil: any
	}{
		{`{"apiVersion":"apps/v1","kind":"Deployment","spec":{"replicas":2147483647}}`, 1, scheduler.ErrPlanTooLarge},
		{`{"apiVersion":"apps/v1","kind":"ReplicaSet","spec":{"replicas":2147483647}}`, 1, scheduler.ErrPlanTooLarge},
		{`{"apiVersion":"v1","kind":"ReplicationController","spec":{"replicas":2147483647}}`, 1, scheduler.ErrPlanTooLarge},
		{`{"apiVersion":"apps/v1","kind":"StatefulSet","spec":{"replicas":2147483647}}`, 1, scheduler.ErrPlanTooLarge},
		{`{"apiVersion":"batch/v1","kind":"Job","spec":{"parallelism":2147483647}}`, 1, scheduler.ErrPlanTooLarge},
		{`{"apiVersion":"batch/v1","kind":"CronJob","spec":{"schedule":"* * * * *","jobTemplate":{"spec":{"parallelism":2147483647}}}}`, 1, scheduler.ErrPlanTooLarge},
		{`{"apiVersion":"v1","kind":"ReplicationController","spec":{"replicas":15000}}`, 2, scheduler.ErrPlanTooLarge},
		{`{"apiVersion":"apps/v1","kind":"DaemonSet"}`, scheduler.PlanMost + 1, scheduler.ErrPlanTooLarge},
		{`{"apiVersion":"apps/v1","kind":"ReplicaSet","spec":{"replicas":-5}}`, 1, errNegative},
		{`{"apiVersion":"apps/v1","kind":"Deployment","spec":{"strategy":{"type":"RollingUpdate"}}}`, 1, nil},
	} {
		objects := slices.Repeat([]Object{{Object: []byte(tt.object), Like: test.Pod("like")}}, tt.times)
		if _, _, err := Of(m.Caches, objects, time.Now()); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s, %d times: got %v, want %v", tt.object, tt.times, err, tt.want)
		}
	}
	few := `{"apiVersion":"batch/v1","kind":"Job","spec":{"parallelism":2147483647,"completions":3}}`
	if planned, _, err := Of(m.Caches, []Object{{Object: []byte(few), Like: test.Pod("like")}}, time.Now()); err != nil || len(planned.Outlooks[0].Come) != 3 {
		t.Errorf("a job of three pods at most: got %v, %v", planned.Outlooks, err)
	}
}
