package replication

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
	"github.com/musterhq/muster/fsm"
)

func begin(t testing.TB, s *store.Store) *test.Term {
	term := test.Begin(t, s)
	term.Run(NewReplicationControllers(Config{Registry: term.Registry, Caches: term.Caches, Events: term.Events, Logger: term.Logger}).Run)
	return term
}

// counts returns how many pods exist, and how many of them are kept by rc and
// not being deleted.
func counts(m *test.Term, rc *corev1.ReplicationController) (all, kept int) {
	for _, p := range test.List[*corev1.Pod](m, store.Pods) {
		all++
		if metav1.IsControlledBy(p, rc) && controller.IsActive(p) {
			kept++
		}
	}
	return all, kept
}

func wantPods(t *testing.T, m *test.Term, rc *corev1.ReplicationController, want int) {
	t.Helper()
	test.Eventually(t, func() string {
		if _, kept := counts(m, rc); kept != want {
			return fmt.Sprintf("%d pods, want %d", kept, want)
		}
		return ""
	})
}

func TestKeepsAsManyPodsAsAskedFor(t *testing.T) { synctest.Test(t, testKeepsAsManyPodsAsAskedFor) }

func testKeepsAsManyPodsAsAskedFor(t *testing.T) {
	m := begin(t, storetest.New(t))
	rc := test.Create(m, resource.ReplicationControllers, test.ReplicationController("web", 5))
	wantPods(t, m, rc, 5)
	for _, p := range test.List[*corev1.Pod](m, store.Pods) {
		if !strings.HasPrefix(p.Name, "web-") || p.GenerateName != "web-" {
			t.Errorf("pod %q, generated from %q, want both to begin with web-", p.Name, p.GenerateName)
		}
		if ref := metav1.GetControllerOf(p); ref == nil || ref.UID != rc.UID || ref.Kind != "ReplicationController" || ref.APIVersion != "v1" || !*ref.BlockOwnerDeletion {
			t.Errorf("pod %s is controlled by %+v, want the controller, blocking", p.Name, ref)
		}
		m.SetReady(p, true)
	}
	test.Eventually(t, func() string {
		now, _ := test.Get[*corev1.ReplicationController](m, store.ReplicationControllers, "default", "web")
		if s := now.Status; s.Replicas != 5 || s.ReadyReplicas != 5 || s.AvailableReplicas != 5 || s.FullyLabeledReplicas != 5 || s.ObservedGeneration != now.Generation {
			return fmt.Sprintf("status %+v, want 5 of everything and generation %d", s, now.Generation)
		}
		return ""
	})

	victim := test.List[*corev1.Pod](m, store.Pods)[0]
	m.Delete(resource.Pods, victim.Namespace, victim.Name)
	wantPods(t, m, rc, 5)
	if _, there := test.Get[*corev1.Pod](m, store.Pods, victim.Namespace, victim.Name); there {
		t.Error("the deleted pod is there")
	}

	scale := func(n int32) {
		test.Change(m, resource.ReplicationControllers, "default", "web", "", func(rc *corev1.ReplicationController) { rc.Spec.Replicas = ptr.To(n) })
	}
	scale(2)
	wantPods(t, m, rc, 2)
	scale(40)
	wantPods(t, m, rc, 40)
	failed := test.List[*corev1.Pod](m, store.Pods)[0]
	test.Change(m, resource.Pods, failed.Namespace, failed.Name, "status", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
	wantPods(t, m, rc, 40)
	if all, _ := counts(m, rc); all != 41 {
		t.Errorf("%d pods in all, want 41: the failed one is for others to collect", all)
	}
	test.Eventually(t, func() string {
		for _, e := range test.List[*corev1.Event](m, store.Events) {
			if e.Reason == "SuccessfulCreate" && e.InvolvedObject.UID == rc.UID {
				return ""
			}
		}
		return "no SuccessfulCreate event"
	})
}

func TestAdoptsAndReleases(t *testing.T) { synctest.Test(t, testAdoptsAndReleases) }

func testAdoptsAndReleases(t *testing.T) {
	m := begin(t, storetest.New(t))
	stray := test.Pod("stray")
	stray.Labels = map[string]string{"app": "web"}
	test.Create(m, resource.Pods, stray)
	rc := test.Create(m, resource.ReplicationControllers, test.ReplicationController("web", 2))
	wantPods(t, m, rc, 2)
	adopted, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "stray")
	if !metav1.IsControlledBy(adopted, rc) {
		t.Error("the matching pod was not adopted")
	}

	test.Change(m, resource.Pods, "default", "stray", "", func(p *corev1.Pod) { p.Labels["app"] = "debug" })
	test.Eventually(t, func() string {
		released, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "stray")
		if len(released.OwnerReferences) != 0 {
			return "the pod that matches no more was not released"
		}
		return ""
	})
	wantPods(t, m, rc, 2)

	// One that begins to match while nothing is missing is adopted and the
	// surplus goes.
	test.Change(m, resource.Pods, "default", "stray", "", func(p *corev1.Pod) { p.Labels["app"] = "web" })
	test.Eventually(t, func() string {
		if all, kept := counts(m, rc); all != 2 || kept != 2 {
			return fmt.Sprintf("%d pods, %d kept, want 2 and 2", all, kept)
		}
		return ""
	})
}

func TestAvailableAfterMinReadySeconds(t *testing.T) {
	synctest.Test(t, testAvailableAfterMinReadySeconds)
}

func testAvailableAfterMinReadySeconds(t *testing.T) {
	m := begin(t, storetest.New(t))
	spec := test.ReplicationController("web", 1)
	spec.Spec.MinReadySeconds = 1
	rc := test.Create(m, resource.ReplicationControllers, spec)
	wantPods(t, m, rc, 1)
	m.SetReady(test.List[*corev1.Pod](m, store.Pods)[0], true)
	test.Eventually(t, func() string {
		now, _ := test.Get[*corev1.ReplicationController](m, store.ReplicationControllers, "default", "web")
		if s := now.Status; s.ReadyReplicas != 1 || s.AvailableReplicas != 1 {
			return fmt.Sprintf("status %+v, want 1 ready and, a second later, available", s)
		}
		return ""
	})
}

func TestIdleWritesNothing(t *testing.T) { synctest.Test(t, testIdleWritesNothing) }

func testIdleWritesNothing(t *testing.T) {
	m := begin(t, storetest.New(t))
	rc := test.Create(m, resource.ReplicationControllers, test.ReplicationController("web", 3))
	wantPods(t, m, rc, 3)
	before := m.Settled(200 * time.Millisecond)
	time.Sleep(time.Second)
	if after := m.Registry.Store().Revision(); after != before {
		t.Errorf("%d writes while nothing happened", after-before)
	}
}

// What cannot be created is reported once in the status, and the report goes
// when it can.
func TestReportsFailureToCreate(t *testing.T) { synctest.Test(t, testReportsFailureToCreate) }

func testReportsFailureToCreate(t *testing.T) {
	s := storetest.New(t)
	m := test.Begin(t, s)
	q := &quota{pods: 2}
	m.Run(NewReplicationControllers(Config{Registry: resource.New(s, q), Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
	rc := test.Create(m, resource.ReplicationControllers, test.ReplicationController("web", 100))
	time.Sleep(time.Second)
	failure := func() *corev1.ReplicationControllerCondition {
		now, _ := test.Get[*corev1.ReplicationController](m, store.ReplicationControllers, "default", "web")
		for _, c := range now.Status.Conditions {
			if c.Type == corev1.ReplicationControllerReplicaFailure {
				return &c
			}
		}
		return nil
	}
	if c := failure(); c == nil || c.Reason != "FailedCreate" || !strings.Contains(c.Message, "exceeded quota") {
		t.Errorf("condition %+v, want ReplicaFailure for FailedCreate with the reason", c)
	}
	if _, kept := counts(m, rc); kept != 2 {
		t.Errorf("%d pods, want as many as are allowed, 2", kept)
	}
	// One attempt, then two: not a hundred for each round.
	if n := q.refused(); n > 40 {
		t.Errorf("%d refused attempts in a second, want a few", n)
	}
	q.allow(1000)
	wantPods(t, m, rc, 100)
	time.Sleep(time.Second)
	if c := failure(); c != nil {
		t.Errorf("condition %+v after the pods were made, want none", c)
	}
}

// quota is admission that allows so many pods.
type quota struct {
	resource.AdmitAll
	mu         sync.Mutex
	pods, over int
}

func (q *quota) Validate(_ context.Context, a *resource.Attributes) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if a.Kind != resource.Pods || a.Operation != resource.Create {
		return nil
	}
	if q.pods--; q.pods < 0 {
		q.over++
		return a.Forbidden(errors.New("exceeded quota"))
	}
	return nil
}

func (q *quota) allow(pods int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pods = pods
}

func (q *quota) refused() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.over
}

// A leader can die at any of its writes, with that write committed or not. The
// next one must end with exactly as many pods as asked for: none twice, none
// missing.
func TestLeaderDiesAtAnyWrite(t *testing.T) {
	const replicas = 6
	test.LeaderDiesAtAnyWrite(t, 2*replicas+6, func(t *testing.T, user *test.Term) {
		test.Create(user, resource.ReplicationControllers, test.ReplicationController("web", replicas))
	}, func(m *test.Term) {
		m.Run(NewReplicationControllers(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
	}, func(t *testing.T, m *test.Term) {
		rc, _ := test.Get[*corev1.ReplicationController](m, store.ReplicationControllers, "default", "web")
		if all, kept := counts(m, rc); all != replicas || kept != replicas {
			t.Errorf("%d pods, %d kept, want %d", all, kept, replicas)
		}
	})
}

// Within one term a write may end without an answer and still take effect, even
// after the next reconcile has begun. Whatever is lost, and however often, the
// count is right in the end and never above what is asked for.
func TestLostAnswersMakeNoDuplicates(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, log, machine := storetest.Open(t)
				user := test.Begin(t, s)
				l := &losing{Log: log, machine: machine, rand: rand.New(rand.NewPCG(seed, 2))}
				m := test.Resume(t, s.WithLog(l))
				m.Run(NewReplicationControllers(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)

				most := highWater(s)
				rc := test.Create(user, resource.ReplicationControllers, test.ReplicationController("web", 20))
				wantPods(t, user, rc, 20)
				user.Settled(200 * time.Millisecond)
				l.wait()
				if all, _ := counts(user, rc); all != 20 || most() > 20 {
					t.Errorf("%d pods, want 20 and never more", all)
				}
			})
		})
	}
}

// highWater looks every millisecond how many pods there are; the function that
// it returns ends that, and says how many there were at most.
func highWater(s *store.Store) (most func() int) {
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				done <- n
				return
			case <-time.After(time.Millisecond):
				n = max(n, s.View().Count(store.Pods.Prefix("")))
			}
		}
	}()
	return func() int { close(stop); return <-done }
}

// The caches lag, because a listener is slow: what they show is older than what
// was written, and pods lag behind their controllers. Nothing may be created
// twice, or beside a pod that could be adopted.
func TestLaggingCachesMakeNoDuplicates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storetest.New(t)
		m := test.Begin(t, s)
		m.Caches.Pods.OnChange(func(_, _ *corev1.Pod) { time.Sleep(5 * time.Millisecond) })
		m.Run(NewReplicationControllers(Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run)
		most := highWater(s)
		stray := test.Pod("stray")
		stray.Labels = map[string]string{"app": "web"}
		test.Create(m, resource.Pods, test.Pod("first")) // its listener still sleeps when stray comes
		test.Create(m, resource.Pods, stray)
		rc := test.Create(m, resource.ReplicationControllers, test.ReplicationController("web", 20))
		wantPods(t, m, rc, 20)
		m.Settled(200 * time.Millisecond)
		if all, kept := counts(m, rc); all != 21 || kept != 20 || most() > 21 {
			t.Errorf("%d pods, %d kept, want 21 with the first, 20 kept, and never more", all, kept)
		}
	})
}

// losing is a log that applies some writes late, after it has said that it does
// not know what became of them.
type losing struct {
	*storetest.Log
	machine *fsm.Machine
	mu      sync.Mutex
	rand    *rand.Rand
	late    sync.WaitGroup
}

func (l *losing) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	l.mu.Lock()
	lose, late := l.rand.IntN(3) == 0, time.Duration(l.rand.IntN(20))*time.Millisecond
	l.mu.Unlock()
	if !lose {
		return l.Log.Propose(ctx, cmd)
	}
	l.late.Add(1)
	go func() {
		defer l.late.Done()
		time.Sleep(late)
		_, _ = l.Log.Propose(context.Background(), cmd)
	}()
	return nil, test.ErrLost
}

func (l *losing) wait() { l.late.Wait() }
