package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/fsm"
)

// direct is a log that applies at once. (storetest has a better one, but
// imports this package.)
type direct struct {
	mu      sync.Mutex
	machine *fsm.Machine
}

func (d *direct) Propose(_ context.Context, cmd []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.machine.ApplyOne(cmd)
}

func (d *direct) ReadBarrier(context.Context) error { return nil }

func newDirect(cfg fsm.Config) *Store {
	m := fsm.New(cfg)
	return New(&direct{machine: m}, m)
}

func newPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: name}}
}

func create(t testing.TB, s *Store, name string) {
	t.Helper()
	if _, err := s.Table(Pods).Create(context.Background(), newPod(name)); err != nil {
		t.Fatal(err)
	}
}

func firstPage(t testing.TB, s *Store) Page {
	t.Helper()
	page, err := s.Table(Pods).List(context.Background(), ListOptions{Limit: 1})
	if err != nil || page.Continue == "" {
		t.Fatalf("first page %v, %v, want more to follow", page, err)
	}
	return page
}

// twins are the stores of two nodes: what either writes, both have.
func twins(cfg fsm.Config) (one, other *Store, machines []*fsm.Machine) {
	machines = []*fsm.Machine{fsm.New(cfg), fsm.New(cfg)}
	log := &everywhere{machines: machines}
	return New(log, machines[0]), New(log, machines[1]), machines
}

type everywhere struct {
	mu       sync.Mutex
	machines []*fsm.Machine
}

func (e *everywhere) Propose(_ context.Context, cmd []byte) (answer []byte, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.machines {
		if answer, err = m.ApplyOne(cmd); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

func (e *everywhere) ReadBarrier(context.Context) error { return nil }

// The node that answered the first page may be gone by the second, and the
// objects may be other ones by then: any node goes on with the same list.
func TestListGoesOnOnAnyNode(t *testing.T) {
	one, other, _ := twins(fsm.Config{})
	const pods = 50
	for i := range pods {
		create(t, one, fmt.Sprintf("pod-%02d", i))
	}
	page := firstPage(t, one)
	revision, names := page.Revision, []string{page.Items[0].Key}
	for i := 0; page.Continue != ""; i++ {
		// One that was listed goes, one that was not, and others come between them.
		for _, name := range []string{fmt.Sprintf("pod-%02d", i), fmt.Sprintf("pod-%02d", pods-1-i)} {
			if _, err := one.Table(Pods).Delete(t.Context(), "a", name, 0, ""); err != nil && !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
		}
		create(t, one, fmt.Sprintf("pod-%02d-late", i+3))
		var err error
		if page, err = []*Store{other, one}[i%2].Table(Pods).List(t.Context(), ListOptions{Limit: 3, Continue: page.Continue}); err != nil {
			t.Fatal(err)
		}
		if page.Revision != revision {
			t.Fatalf("a page of revision %d, want %d", page.Revision, revision)
		}
		for _, item := range page.Items {
			names = append(names, item.Key)
		}
	}
	for i, name := range names {
		if want := fmt.Sprintf("pods/a/pod-%02d", i); name != want {
			t.Fatalf("the list's item %d is %s, want %s", i, name, want)
		}
	}
	if len(names) != pods {
		t.Errorf("%d pods, want %d", len(names), pods)
	}
}

// A list may be continued for minutes, but not for ever, though nothing changes.
// Then the answer says how to go on with the newest state, where the list was.
func TestListCanBeContinuedForSomeMinutes(t *testing.T) {
	t.Run("of what changes", func(t *testing.T) { continuedForSomeMinutes(t, true) })
	t.Run("of what does not", func(t *testing.T) { continuedForSomeMinutes(t, false) })
}

func continuedForSomeMinutes(t *testing.T, changes bool) {
	synctest.Test(t, func(t *testing.T) {
		one, other, machines := twins(fsm.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		var runs sync.WaitGroup
		for _, m := range machines {
			runs.Go(func() { _ = m.Run(ctx) })
		}
		for i := range 3 {
			create(t, one, fmt.Sprintf("pod-%d", i))
		}
		page := firstPage(t, one)
		following := "pods/a/pod-2"
		if changes {
			create(t, one, "pod-1-new")
			following = "pods/a/pod-1-new"
		}
		next := func(token string) (Page, error) {
			return other.Table(Pods).List(t.Context(), ListOptions{Limit: 1, Continue: token})
		}
		for range 3 {
			time.Sleep(continueMax / 4)
			again, err := next(page.Continue)
			if err != nil || again.Items[0].Key != "pods/a/pod-1" || again.Revision != page.Revision {
				t.Fatalf("second page %v, %v, want pod-1 at revision %d", again, err, page.Revision)
			}
		}
		time.Sleep(continueMax/4 + time.Second)
		_, err := next(page.Continue)
		var expired *ExpiredError
		if !errors.Is(err, ErrExpired) || !errors.As(err, &expired) {
			t.Fatalf("second page after too long: %v, want %v", err, ErrExpired)
		}
		fresh, err := next(expired.Continue)
		if err != nil || fresh.Items[0].Key != "pods/a/pod-1" || fresh.Revision != other.Revision() {
			t.Fatalf("going on: %v, %v, want pod-1 at the newest revision", fresh, err)
		}
		if want := int64(other.View().Count("pods/a/") - 2); fresh.Remaining != want {
			t.Errorf("%d remain, want %d", fresh.Remaining, want)
		}
		if fresh, err = next(fresh.Continue); err != nil || fresh.Items[0].Key != following {
			t.Errorf("going on further: %v, %v, want %s", fresh, err, following)
		}
		cancel()
		runs.Wait()
	})
}

func TestListOfAnEarlierRevision(t *testing.T) {
	s := newDirect(fsm.Config{HistoryEvents: 3})
	for i := range 5 {
		create(t, s, fmt.Sprintf("pod-%d", i)) // at revision i+1
	}
	for revision, want := range map[uint64]int{0: 5, 5: 5, 4: 4, 3: 3, 2: 2} {
		page, err := s.Table(Pods).List(t.Context(), ListOptions{Revision: revision})
		if err != nil || len(page.Items) != want || revision > 0 && page.Revision != revision {
			t.Errorf("list at %d has %d pods at %d, %v, want %d", revision, len(page.Items), page.Revision, err, want)
		}
	}
	for _, revision := range []uint64{1, 6} {
		if _, err := s.Table(Pods).List(t.Context(), ListOptions{Revision: revision}); !errors.Is(err, ErrExpired) {
			t.Errorf("list at %d: %v, want %v", revision, err, ErrExpired)
		}
	}
	// Changes of another kind do not take a list its past.
	for range 10 {
		if _, err := s.System().Create(t.Context(), fmt.Sprint(s.Revision()), nil); err != nil {
			t.Fatal(err)
		}
	}
	if page, err := s.Table(Pods).List(t.Context(), ListOptions{Revision: 6}); err != nil || len(page.Items) != 5 {
		t.Errorf("list at 6 has %d pods, %v, want 5", len(page.Items), err)
	}
}

// Whatever a client sends as a token: no panic, and nothing from outside the
// list's own prefix.
func FuzzContinue(f *testing.F) {
	f.Add("")
	f.Add("junk")
	f.Add(position{Revision: 1, After: "pods/a/x", Remaining: 3}.String())
	f.Add(position{After: "muster/token/"}.String())
	f.Add(position{After: "nodes/"}.String())
	s := newDirect(fsm.Config{})
	create(f, s, "pod-a")
	if _, err := s.System().Create(context.Background(), "token/x", []byte("secret")); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, token string) {
		page, err := s.Table(Pods).List(context.Background(), ListOptions{Namespace: "a", Continue: token, Limit: 1})
		if err != nil {
			if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrExpired) {
				t.Errorf("error %v, want %v or %v", err, ErrInvalid, ErrExpired)
			}
			return
		}
		for _, item := range page.Items {
			if item.Key != "pods/a/pod-a" {
				t.Errorf("a list of pods shows %s", item.Key)
			}
		}
	})
}

func BenchmarkList500Of100k(b *testing.B) {
	s := newDirect(fsm.Config{})
	for i := range 100_000 {
		create(b, s, fmt.Sprintf("pod-%06d", i))
	}
	token := ""
	b.ReportAllocs()
	for b.Loop() {
		page, err := s.Table(Pods).List(context.Background(), ListOptions{Limit: 500, Continue: token})
		if err != nil {
			b.Fatal(err)
		}
		token = page.Continue
	}
}
