package store_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
	"github.com/musterhq/muster/fsm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStoreOverOneMachine(t *testing.T) {
	storetest.Run(t, func(t *testing.T) *store.Store { return storetest.New(t) })
}

// What a follower is: writes are decided elsewhere, and this machine hears of
// them only when it must, at a barrier.
type lagging struct {
	leader *fsm.Machine
	here   *fsm.Machine
	behind [][]byte
}

func (l *lagging) Propose(_ context.Context, cmd []byte) ([]byte, error) {
	l.behind = append(l.behind, cmd)
	return l.leader.ApplyOne(cmd)
}

func (l *lagging) ReadBarrier(context.Context) error {
	for _, cmd := range l.behind {
		if _, err := l.here.ApplyOne(cmd); err != nil {
			return err
		}
	}
	l.behind = nil
	return nil
}

func newLagging() (*store.Store, *lagging) {
	log := &lagging{leader: fsm.New(fsm.Config{}), here: fsm.New(fsm.Config{})}
	return store.New(log, log.here), log
}

// The replica still has the first state when the caller puts it back: taking
// that for "nothing to do" would lose the write.
func TestUpdateOfNothingIsNotJudgedByAStaleReplica(t *testing.T) {
	s, log := newLagging()
	table := s.Table(store.Pods)
	first, err := table.Create(t.Context(), storetest.Pod("a", "web"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ReadBarrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := storetest.Pod("a", "web", func(p *corev1.Pod) { p.Spec.NodeName = "n1" })
	if _, err := table.Update(t.Context(), other, 0); err != nil {
		t.Fatal(err)
	}
	back, err := table.Update(t.Context(), first, 0)
	if err != nil || back.GetResourceVersion() != "3" {
		t.Errorf("putting the first state back returns %v, %v, want resourceVersion 3", back, err)
	}
	item, _ := log.leader.Get("pods/a/web")
	obj, err := store.Decode(store.Pods, item)
	if err != nil || obj.(*corev1.Pod).Spec.NodeName != "" {
		t.Errorf("stored is %v, %v, want the first state", obj, err)
	}
}

func TestDeleteIsNotJudgedByAStaleReplica(t *testing.T) {
	s, _ := newLagging()
	table := s.Table(store.Pods)
	if _, err := table.Create(t.Context(), storetest.Pod("a", "web")); err != nil {
		t.Fatal(err)
	}
	// This replica has not heard of the pod.
	if obj, err := table.Delete(t.Context(), "a", "web", 1, ""); err != nil || obj.GetResourceVersion() != "2" {
		t.Errorf("delete of what only others know returns %v, %v, want resourceVersion 2", obj, err)
	}
	// It has heard, but of another of that name.
	again := storetest.Pod("a", "web", func(p *corev1.Pod) { p.UID = "second" })
	if _, err := table.Create(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if err := s.ReadBarrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	changed := storetest.Pod("a", "web", func(p *corev1.Pod) { p.UID, p.Spec.NodeName = "second", "n1" })
	if _, err := table.Update(t.Context(), changed, 0); err != nil {
		t.Fatal(err)
	}
	obj, err := table.Delete(t.Context(), "a", "web", 0, "second")
	if err != nil || obj.(*corev1.Pod).Spec.NodeName != "n1" {
		t.Errorf("delete returns %v, %v, want the last state, on n1", obj, err)
	}
}

// Callers must be able to tell what the log said.
func TestErrorsOfTheLogComeThrough(t *testing.T) {
	deposed, unknown := errors.New("not the leader"), errors.New("outcome unknown")
	s, log, _ := storetest.Open(t)
	if _, err := s.Table(store.Pods).Create(t.Context(), storetest.Pod("a", "old")); err != nil {
		t.Fatal(err)
	}
	calls := map[string]func(name string) error{
		"create": func(name string) error {
			_, err := s.Table(store.Pods).Create(t.Context(), storetest.Pod("a", name))
			return err
		},
		"update": func(name string) error {
			_, err := s.Table(store.Pods).Update(t.Context(), storetest.Pod("a", "old", func(p *corev1.Pod) { p.Spec.NodeName = name }), 0)
			return err
		},
		"update of nothing": func(string) error {
			item, err := s.Table(store.Pods).Get(t.Context(), "a", "old")
			if err != nil {
				return err
			}
			_, err = s.Table(store.Pods).Update(t.Context(), item, 0)
			return err
		},
		"delete": func(string) error {
			_, err := s.Table(store.Pods).Delete(t.Context(), "a", "old", 0, "")
			return err
		},
		"transaction": func(name string) error {
			_, err := s.Txn(t.Context(), []store.Write{{Verb: store.Create, Spec: store.Pods, Object: storetest.Pod("a", name+"-txn")}})
			return err
		},
		"batch": func(name string) error {
			return s.Batch(t.Context(), []store.Write{{Verb: store.Create, Spec: store.Pods, Object: storetest.Pod("a", name+"-batch")}})[0].Err
		},
		"system": func(name string) error { _, err := s.System().Create(t.Context(), name, nil); return err },
	}
	log.Refuse(deposed)
	before := s.Revision()
	for name, call := range calls {
		if err := call("refused"); !errors.Is(err, deposed) {
			t.Errorf("%s through a deposed log: %v, want %v", name, err, deposed)
		}
	}
	if got := s.Revision(); got != before {
		t.Errorf("revision %d, want %d: nothing was written", got, before)
	}
	log.Refuse(nil)
	log.Lose(unknown)
	delete(calls, "update of nothing") // proposes nothing that could be lost
	for _, name := range []string{"create", "update", "transaction", "batch", "system", "delete"} {
		if err := calls[name]("lost"); !errors.Is(err, unknown) {
			t.Errorf("%s whose answer is lost: %v, want %v", name, err, unknown)
		}
	}
	if got, want := s.Revision(), before+6; got != want {
		t.Errorf("revision %d, want %d: all were done", got, want)
	}
}

func TestEndedContextsEndCalls(t *testing.T) {
	s := storetest.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	table := s.Table(store.Pods)
	for name, call := range map[string]func() error{
		"get":    func() error { _, err := table.Get(ctx, "a", "b"); return err },
		"create": func() error { _, err := table.Create(ctx, storetest.Pod("a", "b")); return err },
		"delete": func() error { _, err := table.Delete(ctx, "a", "b", 0, ""); return err },
		"watch":  func() error { _, err := table.Watch(ctx, store.WatchOptions{}); return err },
		"batch": func() error {
			return s.Batch(ctx, []store.Write{{Verb: store.Create, Spec: store.Pods, Object: storetest.Pod("a", "b")}})[0].Err
		},
	} {
		if err := call(); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want %v", name, err, context.Canceled)
		}
	}
}

func TestWithLogWritesThroughTheOtherLogOnly(t *testing.T) {
	deposed := errors.New("not the leader")
	s, log, _ := storetest.Open(t)
	term := log.Term()
	leading := s.WithLog(term)
	if _, err := leading.Table(store.Pods).Create(t.Context(), storetest.Pod("a", "one")); err != nil {
		t.Fatal(err)
	}
	term.Refuse(deposed)
	if _, err := leading.Table(store.Pods).Create(t.Context(), storetest.Pod("a", "two")); !errors.Is(err, deposed) {
		t.Errorf("create through the deposed term: %v, want %v", err, deposed)
	}
	if _, err := s.Table(store.Pods).Create(t.Context(), storetest.Pod("a", "two")); err != nil {
		t.Errorf("create through the node's log: %v, want nil", err)
	}
	if _, err := leading.Table(store.Pods).Get(t.Context(), "a", "two"); err != nil {
		t.Errorf("the term's store does not see the node's write: %v", err)
	}
	if log.Proposals() != 1 || term.Proposals() != 1 {
		t.Errorf("%d and %d proposals, want 1 and 1", log.Proposals(), term.Proposals())
	}
}

func ExampleOf() {
	machine := fsm.New(fsm.Config{})
	s := store.New(storetest.NewLog(machine), machine)
	ctx := context.Background()

	pods := store.Of[*corev1.Pod](s, store.Pods)
	created, err := pods.Create(ctx, storetest.Pod("default", "web"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(created.Name, created.ResourceVersion)

	_, err = pods.Create(ctx, storetest.Pod("default", "web"))
	fmt.Println(errors.Is(err, store.ErrExists), err)
	// Output:
	// web 1
	// true create pods/default/web: object already exists
}
