// Package controllertest runs controllers in tests: a leader's term over a store
// of the test's own, and objects to begin with.
package controllertest

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	kinds "github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// Term is what the duties of one leader share. It ends with the test, or with
// End; then nothing of it runs any more.
type Term struct {
	Registry *kinds.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	Logger   *slog.Logger

	t      testing.TB
	cancel context.CancelFunc
	ended  func()
}

// Begin makes a term over s. Make controllers, which listen to its caches, then
// Run them. Bootstrap namespaces exist.
func Begin(t testing.TB, s *store.Store) *Term {
	t.Helper()
	registry := kinds.New(s, kinds.AdmitAll{})
	if err := kinds.EnsureBootstrap(context.Background(), registry); err != nil {
		t.Fatal(err)
	}
	return Resume(t, s)
}

// Resume is Begin over a store whose log may refuse writes.
func Resume(t testing.TB, s *store.Store) *Term {
	log := slog.New(slog.DiscardHandler)
	registry := kinds.New(s, kinds.AdmitAll{})
	return &Term{
		Registry: registry,
		Caches:   controller.NewCaches(s),
		Events:   controller.NewRecorder(registry, log),
		Logger:   log,
		t:        t,
		ended:    func() {},
	}
}

// Run runs the caches, the recorder and duties, until End.
func (m *Term) Run(duties ...func(context.Context) error) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	m.cancel = cancel
	g, ctx := errgroup.WithContext(ctx)
	for _, run := range append(duties, m.Caches.Run, m.Events.Run) {
		g.Go(func() error { return run(ctx) })
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := g.Wait(); err != nil {
			m.t.Errorf("a duty failed: %v", err)
		}
	}()
	m.ended = func() { <-done }
	m.t.Cleanup(m.End)
	if !m.Caches.Synced(ctx) {
		m.t.Error("caches did not sync")
	}
}

// End ends the term and waits for everything in it.
func (m *Term) End() {
	if m.cancel != nil {
		m.cancel()
	}
	m.ended()
}

// Create stores an object as a user would.
func Create[T store.Object](m *Term, kind *kinds.Kind, obj T) T {
	m.t.Helper()
	created, err := m.Registry.Create(context.Background(), kind, obj.GetNamespace(), obj, kinds.CreateOptions{})
	if err != nil {
		m.t.Fatal(err)
	}
	return created.(T)
}

// Change updates an object or a subresource of it.
func Change[T store.Object](m *Term, kind *kinds.Kind, namespace, name, subresource string, change func(T)) T {
	m.t.Helper()
	changed, _, err := m.Registry.Update(context.Background(), kind, namespace, name, subresource, func(current store.Object) (store.Object, error) {
		change(current.(T))
		return current, nil
	}, kinds.UpdateOptions{})
	if err != nil {
		m.t.Fatal(err)
	}
	return changed.(T)
}

// Delete deletes an object as a user would, with the grace that it asks for.
func (m *Term) Delete(kind *kinds.Kind, namespace, name string, options ...metav1.DeleteOptions) {
	m.t.Helper()
	o := metav1.DeleteOptions{}
	if len(options) > 0 {
		o = options[0]
	}
	if _, _, err := m.Registry.Delete(context.Background(), kind, namespace, name, &o); err != nil {
		m.t.Fatal(err)
	}
}

// Get returns an object as stored, false when there is none.
func Get[T store.Object](m *Term, spec *store.Spec, namespace, name string) (T, bool) {
	obj, err := store.Of[T](m.Registry.Store(), spec).Get(context.Background(), namespace, name)
	return obj, err == nil
}

// List returns all objects of a kind as stored.
func List[T store.Object](m *Term, spec *store.Spec) []T {
	m.t.Helper()
	objects, _, err := store.Of[T](m.Registry.Store(), spec).List(context.Background(), store.ListOptions{})
	if err != nil {
		m.t.Fatal(err)
	}
	return objects
}

// Eventually waits until wrong returns "", and fails with what it returned last.
func Eventually(t testing.TB, wrong func() string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		message := wrong()
		if message == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(message)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// Settled waits until nothing has been written for quiet, and returns the
// revision.
func (m *Term) Settled(quiet time.Duration) uint64 {
	m.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	last, since := m.Registry.Store().Revision(), time.Now()
	for time.Since(since) < quiet {
		if time.Now().After(deadline) {
			m.t.Fatal("writes do not end")
		}
		time.Sleep(10 * time.Millisecond)
		if now := m.Registry.Store().Revision(); now != last {
			last, since = now, time.Now()
		}
	}
	return last
}

// Node is a ready node with 4 cores, 8 GiB and room for 110 pods.
func Node(name string) *corev1.Node {
	amounts := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("4"),
		corev1.ResourceMemory: resource.MustParse("8Gi"),
		corev1.ResourcePods:   resource.MustParse("110"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{
			Capacity: amounts, Allocatable: amounts,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}},
		},
	}
}

// Pod is a pod in the default namespace that asks for a tenth of a core.
func Pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: name},
		Spec:       podSpec(),
	}
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{
		Name: "main", Image: "image",
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}},
	}}}
}

// ReplicationController asks for pods labelled app=name in the default namespace.
func ReplicationController(name string, replicas int32) *corev1.ReplicationController {
	app := map[string]string{"app": name}
	return &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: name},
		Spec: corev1.ReplicationControllerSpec{
			Replicas: ptr.To(replicas),
			Selector: app,
			Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: podSpec()},
		},
	}
}

// ReplicaSet asks for pods labelled app=name in the default namespace.
func ReplicaSet(name string, replicas int32) *appsv1.ReplicaSet {
	app := map[string]string{"app": name}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: name, Labels: app},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: ptr.To(replicas),
			Selector: &metav1.LabelSelector{MatchLabels: app},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: podSpec()},
		},
	}
}

// Deployment asks for pods labelled app=name in the default namespace, rolled
// out with one more and one less at a time.
func Deployment(name string, replicas int32) *appsv1.Deployment {
	set := ReplicaSet(name, replicas)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(replicas),
			Selector: set.Spec.Selector,
			Template: set.Spec.Template,
			Strategy: appsv1.DeploymentStrategy{
				Type: appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{
					MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(1)),
				},
			},
		},
	}
}

// SetReady sets a pod's phase and readiness, as its agent would report it.
func (m *Term) SetReady(pod *corev1.Pod, ready bool) {
	m.t.Helper()
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	Change(m, kinds.Pods, pod.Namespace, pod.Name, "status", func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodRunning
		for i := range p.Status.Conditions {
			if c := &p.Status.Conditions[i]; c.Type == corev1.PodReady {
				c.Status, c.LastTransitionTime = status, metav1.Now()
				return
			}
		}
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Now()})
	})
}
