package eventttl

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func event(m *test.Term, name string) {
	now := metav1.Now()
	test.Create(m, resource.Events, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: "default", Name: name},
		InvolvedObject: corev1.ObjectReference{Namespace: "default"}, FirstTimestamp: now, LastTimestamp: now, Count: 1,
	})
}

func wantEvents(t *testing.T, m *test.Term, want ...string) {
	t.Helper()
	var got []string
	for _, e := range test.List[*corev1.Event](m, store.Events) {
		got = append(got, e.Name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

func TestEventsGoAnHourAfterTheyWereLastSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		event(m, "before")
		time.Sleep(10 * time.Minute)
		m.Run(New(Config{Registry: m.Registry, Logger: m.Logger}).Run)
		event(m, "once")
		event(m, "again")
		time.Sleep(30 * time.Minute)
		test.Change(m, resource.Events, "default", "again", "", func(e *corev1.Event) { e.Count, e.LastTimestamp = 2, metav1.Now() })
		time.Sleep(19 * time.Minute)
		wantEvents(t, m, "again", "before", "once")
		time.Sleep(4 * time.Minute)
		wantEvents(t, m, "again", "once")
		time.Sleep(11 * time.Minute)
		wantEvents(t, m, "again")
		time.Sleep(30 * time.Minute)
		wantEvents(t, m)
		before := m.Registry.Store().Revision()
		time.Sleep(24 * time.Hour)
		if now := m.Registry.Store().Revision(); now != before {
			t.Errorf("%d writes in a day without events, want none", now-before)
		}
		m.End()
	})
}

// A thousand events within two minutes must not be a thousand separate moments
// of writing, and must all go.
func TestDeletesInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		m.Run(New(Config{Registry: m.Registry, Logger: m.Logger}).Run)
		for i := range 1000 {
			event(m, fmt.Sprint("e", i))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Hour - 2*time.Minute)
		moments := map[time.Time]bool{}
		last := m.Registry.Store().Revision()
		for range 900 {
			time.Sleep(time.Second)
			if now := m.Registry.Store().Revision(); now != last {
				moments[time.Now()], last = true, now
			}
		}
		wantEvents(t, m)
		if len(moments) > 4 {
			t.Errorf("deleted at %d moments, want a few", len(moments))
		}
		m.End()
	})
}

func TestTriesAgainWhatCouldNotBeDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log, _ := storetest.Open(t)
		m := test.Begin(t, s)
		m.Run(New(Config{Registry: m.Registry, Logger: m.Logger}).Run)
		event(m, "a")
		event(m, "b")
		log.Refuse(errors.New("no quorum"))
		time.Sleep(2*time.Hour + retryAfter/2) // between two tries, not in the middle of one
		log.Refuse(nil)
		wantEvents(t, m, "a", "b")
		time.Sleep(time.Minute)
		wantEvents(t, m)
		m.End()
	})
}

// An event is seen again just as its time is up: the delete that was planned for
// its old state must not take it.
func TestAnEventSeenAgainIsNotDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		event(m, "a")
		stored := test.List[*corev1.Event](m, store.Events)[0]
		c := New(Config{Registry: m.Registry, Logger: m.Logger})
		c.byKey = make(map[string]*entry)
		revision, err := strconv.ParseUint(stored.ResourceVersion, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		c.note("events/default/a", revision, stored)
		test.Change(m, resource.Events, "default", "a", "", func(e *corev1.Event) { e.Count = 2 })
		if !c.expire(t.Context(), time.Now().Add(2*time.Hour)) {
			t.Error("a delete that came too late counts as failed")
		}
		wantEvents(t, m, "a")
	})
}

func TestEventsWithFinalizersStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		m.Run(New(Config{Registry: m.Registry, Logger: m.Logger}).Run)
		event(m, "kept")
		test.Change(m, resource.Events, "default", "kept", "", func(e *corev1.Event) { e.Finalizers = []string{"example.com/keep"} })
		time.Sleep(3 * time.Hour)
		wantEvents(t, m, "kept")
		m.End()
	})
}
