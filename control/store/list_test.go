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

// A list may be continued for minutes, but not for ever. Then the answer says
// how to go on with the newest state, where the list was.
func TestListCanBeContinuedForSomeMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newDirect(fsm.Config{})
		for i := range 3 {
			create(t, s, fmt.Sprintf("pod-%d", i))
		}
		page := firstPage(t, s)
		create(t, s, "pod-1-new")
		next := func(token string) (Page, error) {
			return s.Table(Pods).List(t.Context(), ListOptions{Limit: 1, Continue: token})
		}
		for range 3 { // each page is a reason to keep it longer
			time.Sleep(viewAge - time.Second)
			again, err := next(page.Continue)
			if err != nil || again.Items[0].Key != "pods/a/pod-1" || again.Revision != page.Revision {
				t.Fatalf("second page %v, %v, want pod-1 at revision %d", again, err, page.Revision)
			}
		}
		time.Sleep(viewAge + viewInterval + time.Second)
		s.views.mu.Lock()
		if n := len(s.views.kept); n != 0 || s.views.sweeping {
			t.Errorf("%d states are kept after nobody came back, want 0", n)
		}
		s.views.mu.Unlock()
		_, err := next(page.Continue)
		var expired *ExpiredError
		if !errors.Is(err, ErrExpired) || !errors.As(err, &expired) {
			t.Fatalf("second page after too long: %v, want %v", err, ErrExpired)
		}
		fresh, err := next(expired.Continue)
		if err != nil || fresh.Items[0].Key != "pods/a/pod-1" || fresh.Revision != s.Revision() {
			t.Fatalf("going on: %v, %v, want pod-1 at the newest revision", fresh, err)
		}
		if fresh, err = next(fresh.Continue); err != nil || fresh.Items[0].Key != "pods/a/pod-1-new" {
			t.Errorf("going on further: %v, %v, want pod-1-new", fresh, err)
		}
		time.Sleep(2 * viewAge) // the timer ends with the bubble
	})
}

func TestKeptStatesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newDirect(fsm.Config{})
		create(t, s, "pod-a")
		create(t, s, "pod-b")
		oldest := firstPage(t, s)
		var last Page
		for i := range viewsMax {
			create(t, s, fmt.Sprintf("pod-c%d", i))
			last = firstPage(t, s)
		}
		if n := len(s.views.kept); n != viewsMax {
			t.Errorf("%d states kept, want %d", n, viewsMax)
		}
		if _, err := s.Table(Pods).List(t.Context(), ListOptions{Continue: oldest.Continue}); !errors.Is(err, ErrExpired) {
			t.Errorf("the oldest list: %v, want %v", err, ErrExpired)
		}
		if _, err := s.Table(Pods).List(t.Context(), ListOptions{Continue: last.Continue}); err != nil {
			t.Errorf("the newest list: %v, want nil", err)
		}
		// A state far behind keeps too much alive that was overwritten since.
		s.views.newest = func() uint64 { return last.Revision + viewLagMax + 1 }
		create(t, s, "pod-d")
		if _, err := s.Table(Pods).List(t.Context(), ListOptions{Continue: last.Continue}); !errors.Is(err, ErrExpired) {
			t.Errorf("a list %d revisions behind: %v, want %v", viewLagMax+1, err, ErrExpired)
		}
	})
}

func TestListOfAKeptRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newDirect(fsm.Config{})
		create(t, s, "pod-a")
		create(t, s, "pod-b")
		kept := firstPage(t, s)
		create(t, s, "pod-c")
		for revision, want := range map[uint64]int{0: 3, kept.Revision: 2, s.Revision(): 3} {
			page, err := s.Table(Pods).List(t.Context(), ListOptions{Revision: revision})
			if err != nil || len(page.Items) != want {
				t.Errorf("list at %d has %d pods, %v, want %d", revision, len(page.Items), err, want)
			}
		}
		time.Sleep(2 * viewAge)
	})
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
