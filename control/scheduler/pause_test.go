package scheduler_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	test "github.com/musterhq/muster/control/controller/controllertest"
	kinds "github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/scheduler"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// While the brake is on nothing is bound, whoever leads, and those who wait say
// why; once it is let go all of them go.
func TestPauseOutlivesTheLeader(t *testing.T) { synctest.Test(t, testPauseOutlivesTheLeader) }

func testPauseOutlivesTheLeader(t *testing.T) {
	s := storetest.New(t)
	m := begin(t, s)
	test.Create(m, kinds.Nodes, test.Node("n"))
	test.Create(m, kinds.Pods, test.Pod("before"))
	wantBound(t, m, 1)
	brake := scheduler.Brake{Store: s}
	if p, already, err := brake.Pause(t.Context(), scheduler.Pause{Reason: "fire", By: "admin", Since: time.Now()}); err != nil || already || p.Reason != "fire" {
		t.Fatalf("pause: %v, %v, %v", p, already, err)
	}
	if p, already, err := brake.Pause(t.Context(), scheduler.Pause{Reason: "again"}); err != nil || !already || p.Reason != "fire" {
		t.Errorf("second pause: %v, %v, %v; want the first one", p, already, err)
	}
	test.Create(m, kinds.Pods, test.Pod("p1"))
	settledAfter(m, time.Minute)
	p, _ := test.Get[*corev1.Pod](m, store.Pods, "default", "p1")
	if c := condition(p); p.Spec.NodeName != "" || c == nil || c.Status != corev1.ConditionFalse ||
		c.Reason != "SchedulingPaused" || !strings.Contains(c.Message, ": fire (muster operator scheduler resume") {
		t.Errorf("on %q with condition %+v, want it waiting and saying so", p.Spec.NodeName, c)
	}
	m.End()

	next := begin(t, s)
	test.Create(next, kinds.Pods, test.Pod("p2"))
	before := settledAfter(next, time.Minute)
	time.Sleep(time.Hour)
	if n, _ := bound(next); n != 1 || s.Revision() != before {
		t.Errorf("%d pods bound and %d writes in an hour, want the one from before and none", n, s.Revision()-before)
	}
	if resumed, err := brake.Resume(t.Context()); !resumed || err != nil {
		t.Fatalf("resume: %v, %v", resumed, err)
	}
	wantBound(t, next, 3)
	if resumed, err := brake.Resume(t.Context()); resumed || err != nil {
		t.Errorf("second resume: %v, %v; want nothing done", resumed, err)
	}
}

// A brake that is let go within a moment is nobody's news.
func TestShortPauseTellsNobody(t *testing.T) { synctest.Test(t, testShortPauseTellsNobody) }

func testShortPauseTellsNobody(t *testing.T) {
	s := storetest.New(t)
	m := begin(t, s)
	test.Create(m, kinds.Nodes, test.Node("n"))
	brake := scheduler.Brake{Store: s}
	if _, _, err := brake.Pause(t.Context(), scheduler.Pause{}); err != nil {
		t.Fatal(err)
	}
	test.Create(m, kinds.Pods, test.Pod("p"))
	time.Sleep(time.Second)
	if n, _ := bound(m); n != 0 {
		t.Error("bound while paused")
	}
	if _, err := brake.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantBound(t, m, 1)
	settledAfter(m, time.Minute)
	for _, e := range test.List[*corev1.Event](m, store.Events) {
		if e.Reason == "FailedScheduling" {
			t.Errorf("event %q", e.Message)
		}
	}
}

// Whoever leads, and also when it is set twice.
func TestAlgorithmIsTheClusters(t *testing.T) {
	s := storetest.New(t)
	algorithms := scheduler.Algorithms{Store: s}
	if got := algorithms.Get(); got != scheduler.Spread {
		t.Errorf("nothing set: got %q, want spread", got)
	}
	for _, to := range []scheduler.Algorithm{scheduler.BinPack, scheduler.BinPack, scheduler.Spread, scheduler.Spread} {
		if err := algorithms.Set(t.Context(), to); err != nil || algorithms.Get() != to {
			t.Errorf("set %q: got %q and %v", to, algorithms.Get(), err)
		}
	}
	if err := algorithms.Set(t.Context(), "magic"); !errors.Is(err, scheduler.ErrNoAlgorithm) {
		t.Errorf("set magic: got %v, want ErrNoAlgorithm", err)
	}
}

func TestStatusCountsWhatWaits(t *testing.T) { synctest.Test(t, testStatusCountsWhatWaits) }

func testStatusCountsWhatWaits(t *testing.T) {
	s := storetest.New(t)
	m := test.Begin(t, s)
	it := scheduler.New(scheduler.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger})
	m.Run(it.Run)
	test.Create(m, kinds.Pods, test.Pod("p"))
	settledAfter(m, time.Minute)
	want := scheduler.Status{Algorithm: scheduler.Spread, Unschedulable: 1}
	if got, err := it.Status(t.Context()); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	brake := scheduler.Brake{Store: s}
	if _, _, err := brake.Pause(t.Context(), scheduler.Pause{}); err != nil {
		t.Fatal(err)
	}
	test.Create(m, kinds.Nodes, test.Node("n"))
	test.Create(m, kinds.Pods, test.Pod("q"))
	settledAfter(m, time.Minute)
	got, err := it.Status(t.Context())
	if err != nil || got.Paused == nil || got.Nodes != 1 || got.Ready != 1 || got.Unschedulable != 1 {
		t.Errorf("paused: got %+v, %v, want one ready and one unschedulable", got, err)
	}
	m.End()
	if _, err := it.Status(t.Context()); err != scheduler.ErrEnded {
		t.Errorf("after the term: got %v, want %v", err, scheduler.ErrEnded)
	}
}

// settledAfter lets time pass and then waits for the writes to end.
func settledAfter(m *test.Term, d time.Duration) uint64 {
	time.Sleep(d)
	return m.Settled(200 * time.Millisecond)
}
