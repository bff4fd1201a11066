package autoscaling

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// api answers as the metrics APIs do: a path without an answer is not found.
type api struct {
	mu      sync.Mutex
	answers map[string]any // by path and query
	asked   []string
}

func (a *api) set(path string, answer any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[path] = answer
}

func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := r.URL.Path
	if q := r.URL.Query().Encode(); q != "" {
		at += "?" + q
	}
	a.asked = append(a.asked, at)
	response := &http.Response{StatusCode: http.StatusNotFound, Header: http.Header{"Content-Type": {"text/plain"}}, Request: r, Body: io.NopCloser(strings.NewReader("404 page not found"))}
	if answer, ok := a.answers[at]; ok {
		b, err := json.Marshal(answer)
		if err != nil {
			return nil, err
		}
		response.StatusCode, response.Body = http.StatusOK, io.NopCloser(bytes.NewReader(b))
		response.Header.Set("Content-Type", "application/json")
	}
	return response, nil
}

func start(t *testing.T, m *test.Term, a *api) {
	t.Helper()
	c, err := New(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, API: &rest.Config{Host: "http://api", Transport: a}, Logger: m.Logger})
	if err != nil {
		t.Fatal(err)
	}
	m.Run(c.Run)
}

// cpu answers for pods that use so many thousandths of a core each.
func cpu(now time.Time, usage map[string]int64) any {
	var items []any
	for pod, used := range usage {
		items = append(items, map[string]any{
			"metadata": map[string]any{"name": pod}, "timestamp": now.Format(time.RFC3339), "window": "30s",
			"containers": []any{map[string]any{"name": "main", "usage": map[string]any{"cpu": fmt.Sprintf("%dm", used)}}},
		})
	}
	return map[string]any{"items": items}
}

func value(v string) any {
	return map[string]any{"items": []any{map[string]any{"value": v, "timestamp": "2026-01-01T00:00:00Z", "describedObject": map[string]any{"name": "x"}}}}
}

// scaler scales the ReplicaSet of its name to use half of the processor time that it requests.
func scaler(name string, least, most int32) *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: name},
			MinReplicas:    &least, MaxReplicas: most,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](50)},
			}}},
		},
	}
}

// pods makes ready pods that started long ago, and gives the set the selector and the
// count that its controller would.
func pods(m *test.Term, set string, count int) map[string]int64 {
	usage := map[string]int64{}
	for i := range count {
		pod := test.Pod(fmt.Sprintf("%s-%d", set, i))
		pod.Labels = map[string]string{"app": set}
		test.Create(m, resource.Pods, pod)
		test.Change(m, resource.Pods, "default", pod.Name, "status", func(p *corev1.Pod) {
			long := metav1.NewTime(time.Now().Add(-time.Hour))
			p.Status.Phase, p.Status.StartTime = corev1.PodRunning, &long
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: long}}
		})
		usage[pod.Name] = 0
	}
	return usage
}

func replicas(m *test.Term, set string) int32 {
	rs, _ := test.Get[*appsv1.ReplicaSet](m, store.ReplicaSets, "default", set)
	return *rs.Spec.Replicas
}

func setWanted(n int32) func(*appsv1.ReplicaSet) {
	return func(rs *appsv1.ReplicaSet) { rs.Spec.Replicas = &n }
}

func setCount(n int32) func(*appsv1.ReplicaSet) {
	return func(rs *appsv1.ReplicaSet) { rs.Status.Replicas = n }
}

func conditions(m *test.Term, name string) map[autoscalingv2.HorizontalPodAutoscalerConditionType]string {
	hpa, _ := test.Get[*autoscalingv2.HorizontalPodAutoscaler](m, store.HorizontalPodAutoscalers, "default", name)
	words := map[autoscalingv2.HorizontalPodAutoscalerConditionType]string{}
	for _, c := range hpa.Status.Conditions {
		words[c.Type] = string(c.Status) + " " + c.Reason
	}
	return words
}

// told are the messages of an autoscaler's conditions.
func told(m *test.Term, name string) (messages []string) {
	hpa, _ := test.Get[*autoscalingv2.HorizontalPodAutoscaler](m, store.HorizontalPodAutoscalers, "default", name)
	for _, c := range hpa.Status.Conditions {
		messages = append(messages, c.Message)
	}
	return messages
}

const podsPath = "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods?labelSelector=app%3D"

func TestATargetFollowsWhatIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, a := test.Begin(t, storetest.New(t)), &api{answers: map[string]any{}}
		start(t, m, a)
		test.Create(m, resource.ReplicaSets, test.ReplicaSet("web", 2))
		usage := pods(m, "web", 2)
		test.Create(m, resource.HorizontalPodAutoscalers, scaler("web", 1, 10))
		time.Sleep(time.Second)
		if got, want := conditions(m, "web")[autoscalingv2.ScalingActive], "False FailedGetResourceMetric"; got != want {
			t.Errorf("while nobody measures: %q, want %q", got, want)
		}
		hpa, _ := test.Get[*autoscalingv2.HorizontalPodAutoscaler](m, store.HorizontalPodAutoscalers, "default", "web")
		const said = "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: the server could not find the requested resource (get pods.metrics.k8s.io)"
		for _, c := range hpa.Status.Conditions {
			if c.Type == autoscalingv2.ScalingActive && c.Message != said {
				t.Errorf("it says %q, want %q", c.Message, said)
			}
		}

		busy := func(used int64) {
			for pod := range usage {
				usage[pod] = used
			}
			a.set(podsPath+"web", cpu(time.Now(), maps.Clone(usage)))
		}
		busy(120) // of 100 requested: 120 %, 2.4 times the target
		time.Sleep(every)
		if got := replicas(m, "web"); got != 4 { // 5, but at most doubled
			t.Errorf("%d replicas of a busy set, want 4", got)
		}
		if c := conditions(m, "web"); c[autoscalingv2.AbleToScale] != "True SucceededRescale" || c[autoscalingv2.ScalingLimited] != "True ScaleUpLimit" {
			t.Errorf("conditions %v, want that it was rescaled, and limited", c)
		}
		usage = map[string]int64{}
		for i := 2; i < 4; i++ {
			pod := test.Pod(fmt.Sprintf("web-%d", i))
			pod.Labels = map[string]string{"app": "web"}
			test.Create(m, resource.Pods, pod)
		}
		for i := range 2 {
			usage[fmt.Sprintf("web-%d", i)] = 0
		}
		busy(55) // two others have not started: no reason for more than the five asked for before
		time.Sleep(2 * every)
		if got := replicas(m, "web"); got != 5 {
			t.Errorf("%d replicas while pods start, want 5", got)
		}
		m.Delete(resource.Pods, "default", "web-2")
		m.Delete(resource.Pods, "default", "web-3")
		busy(10) // 10 %: a fifth of the target
		time.Sleep(4 * time.Minute)
		if got := replicas(m, "web"); got != 5 {
			t.Errorf("%d replicas within the window, want 5", got)
		}
		if c := conditions(m, "web"); c[autoscalingv2.AbleToScale] != "True ScaleDownStabilized" {
			t.Errorf("conditions %v, want that scaling down waits", c)
		}
		busy(10)
		time.Sleep(3 * time.Minute)
		if got := replicas(m, "web"); got != 1 {
			t.Errorf("%d replicas of an idle set, want 1", got)
		}

		// Nothing is written while nothing changes, and nothing asked for what is gone.
		time.Sleep(time.Minute)
		revision := m.Registry.Store().Revision()
		time.Sleep(time.Hour)
		if now := m.Registry.Store().Revision(); now != revision {
			t.Errorf("%d writes in an hour without change, want none", now-revision)
		}
		m.Delete(resource.HorizontalPodAutoscalers, "default", "web")
		time.Sleep(every)
		asked := len(a.asked)
		time.Sleep(time.Hour)
		if len(a.asked) != asked {
			t.Errorf("%d questions for an autoscaler that is gone, want none", len(a.asked)-asked)
		}
		m.End()
	})
}

func TestEveryMetricIsAskedForWhereItIs(t *testing.T) {
	quantity := apiresource.MustParse
	average := func(s string) autoscalingv2.MetricTarget {
		return autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(quantity(s))}
	}
	whole := func(s string) autoscalingv2.MetricTarget {
		return autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: ptr.To(quantity(s))}
	}
	of := autoscalingv2.MetricIdentifier{Name: "jobs", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"queue": "a"}}}
	pod := map[string]any{"items": []any{map[string]any{"describedObject": map[string]any{"name": "web-0"}, "value": "30", "timestamp": "2026-01-01T00:00:00Z"}, map[string]any{"describedObject": map[string]any{"name": "web-1"}, "value": "30", "timestamp": "2026-01-01T00:00:00Z"}}}
	const custom, external = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/default/", "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/"
	for name, c := range map[string]struct {
		metric autoscalingv2.MetricSpec
		path   string
		answer any
		want   int32
	}{
		"container": {autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{
			Name: corev1.ResourceCPU, Container: "main", Target: average("50m")}}, podsPath + "web", cpu(time.Now(), map[string]int64{"web-0": 80, "web-1": 70}), 3},
		"pods": {autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Metric: of, Target: average("20")}},
			custom + "pods/*/jobs?labelSelector=app%3Dweb&metricLabelSelector=queue%3Da", pod, 3},
		"object": {autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{Metric: of, Target: whole("20"),
			DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "queue"}}},
			custom + "deployments.apps/queue/jobs?metricLabelSelector=queue%3Da", value("30"), 3},
		"object, shared": {autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{Metric: of, Target: average("10"),
			DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Namespace", Name: "default"}}},
			custom + "metrics/jobs?metricLabelSelector=queue%3Da", value("35"), 4},
		"external": {autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: of, Target: whole("20")}},
			external + "jobs?labelSelector=queue%3Da", value("30"), 3},
		"external, shared": {autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: of, Target: average("10")}},
			external + "jobs?labelSelector=queue%3Da", value("31"), 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, a := test.Begin(t, storetest.New(t)), &api{answers: map[string]any{c.path: c.answer}}
				start(t, m, a)
				test.Create(m, resource.ReplicaSets, test.ReplicaSet("web", 2))
				test.Change(m, resource.ReplicaSets, "default", "web", "status", setCount(2))
				pods(m, "web", 2)
				hpa := scaler("web", 1, 10)
				hpa.Spec.Metrics = []autoscalingv2.MetricSpec{c.metric}
				test.Create(m, resource.HorizontalPodAutoscalers, hpa)
				time.Sleep(time.Second)
				if got := replicas(m, "web"); got != c.want {
					t.Errorf("%d replicas, want %d; asked %v, status %v", got, c.want, a.asked, told(m, "web"))
				}
				m.End()
			})
		})
	}
}

func TestATargetComesBackFromZero(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/jobs"
		m, a := test.Begin(t, storetest.New(t)), &api{answers: map[string]any{path: value("0")}}
		start(t, m, a)
		test.Create(m, resource.ReplicaSets, test.ReplicaSet("web", 1))
		pods(m, "web", 1)
		hpa := scaler("web", 0, 10)
		hpa.Spec.Metrics = []autoscalingv2.MetricSpec{{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: "jobs"}, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: ptr.To(apiresource.MustParse("10"))},
		}}}
		test.Create(m, resource.HorizontalPodAutoscalers, hpa)
		time.Sleep(6 * time.Minute)
		if got := replicas(m, "web"); got != 0 || conditions(m, "web")[autoscalingv2.ScaledToZero] != "True ScaledToZero" {
			t.Errorf("%d replicas without jobs, conditions %v; want 0, and that it was scaled to zero", got, conditions(m, "web"))
		}
		a.set(path, value("25"))
		time.Sleep(every + time.Second)
		if got := replicas(m, "web"); got != 3 {
			t.Errorf("%d replicas for 25 jobs, want 3", got)
		}
		// Who scales to zero by hand stops the autoscaler.
		test.Change(m, resource.ReplicaSets, "default", "web", "", setWanted(0))
		time.Sleep(time.Minute)
		if got := replicas(m, "web"); got != 0 || conditions(m, "web")[autoscalingv2.ScalingActive] != "False ScalingDisabled" {
			t.Errorf("%d replicas, conditions %v; want 0, and that scaling is disabled", got, conditions(m, "web"))
		}
		m.End()
	})
}

func TestTargetsThatCannotBeScaledAreToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, a := test.Begin(t, storetest.New(t)), &api{answers: map[string]any{}}
		start(t, m, a)
		test.Create(m, resource.ReplicaSets, test.ReplicaSet("web", 3))
		pods(m, "web", 1)
		gone, unscaled, first, second, bounded := scaler("gone", 1, 2), scaler("unscaled", 1, 2), scaler("web", 1, 5), scaler("second", 1, 5), scaler("bounded", 4, 5)
		unscaled.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "batch/v1", Kind: "Job", Name: "x"}
		second.Spec.ScaleTargetRef.Name = "web"
		test.Create(m, resource.ReplicaSets, test.ReplicaSet("bounded", 1))
		for _, hpa := range []*autoscalingv2.HorizontalPodAutoscaler{gone, unscaled, first, second, bounded} {
			test.Create(m, resource.HorizontalPodAutoscalers, hpa)
		}
		time.Sleep(time.Minute)
		for name, want := range map[string]string{"gone": "False FailedGetScale", "unscaled": "False FailedGetScale"} {
			if got := conditions(m, name)[autoscalingv2.AbleToScale]; got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		for _, name := range []string{"web", "second"} {
			if got, want := conditions(m, name)[autoscalingv2.ScalingActive], "False AmbiguousSelector"; got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if got := replicas(m, "bounded"); got != 4 {
			t.Errorf("%d replicas where 4 are the least, want 4", got)
		}
		m.Delete(resource.HorizontalPodAutoscalers, "default", "second")
		time.Sleep(time.Minute)
		if got, want := conditions(m, "web")[autoscalingv2.ScalingActive], "False FailedGetResourceMetric"; got != want {
			t.Errorf("once the other is gone: %q, want %q", got, want)
		}
		m.End()
	})
}

func TestANewLeaderScalesOn(t *testing.T) {
	test.LeaderDiesAtAnyWrite(t, 3, func(t *testing.T, user *test.Term) {
		test.Create(user, resource.ReplicaSets, test.ReplicaSet("web", 2))
		pods(user, "web", 2)
		test.Create(user, resource.HorizontalPodAutoscalers, scaler("web", 1, 10))
	}, func(m *test.Term) {
		// All that they use makes three of two, whoever looks; of three, with a third that is not
		// there, it makes three again.
		a := &api{answers: map[string]any{podsPath + "web": cpu(time.Now(), map[string]int64{"web-0": 70, "web-1": 70})}}
		c, err := New(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, API: &rest.Config{Host: "http://api", Transport: a}, Logger: m.Logger})
		if err != nil {
			t.Fatal(err)
		}
		m.Run(c.Run)
	}, func(t *testing.T, m *test.Term) {
		hpa, _ := test.Get[*autoscalingv2.HorizontalPodAutoscaler](m, store.HorizontalPodAutoscalers, "default", "web")
		if got := replicas(m, "web"); got != 3 || len(hpa.Status.Conditions) < 3 {
			t.Errorf("%d replicas, %d conditions; want 3 and 3", got, len(hpa.Status.Conditions))
		}
	})
}
