package store_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sort"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
	"github.com/musterhq/muster/fsm"
)

func byNode(p *corev1.Pod) []string {
	if p.Spec.NodeName == "" {
		return nil
	}
	return []string{p.Spec.NodeName}
}

func node(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.NodeName = name } }

// journal notes what a cache tells, and what handlers know from it alone.
type journal struct {
	mu    sync.Mutex
	lines []string
	known map[string]string // name → resourceVersion
}

func (j *journal) note(t *testing.T) func(old, new *corev1.Pod) {
	j.known = map[string]string{}
	return func(old, new *corev1.Pod) {
		j.mu.Lock()
		defer j.mu.Unlock()
		switch {
		case old == nil:
			j.lines = append(j.lines, "+"+new.Name)
		case new == nil:
			j.lines = append(j.lines, "-"+old.Name)
		default:
			j.lines = append(j.lines, "~"+new.Name)
		}
		if old != nil {
			if j.known[old.Name] != old.ResourceVersion {
				t.Errorf("told of %s at %s as the old state, but last told of it at %q", old.Name, old.ResourceVersion, j.known[old.Name])
			}
			delete(j.known, old.Name)
		}
		if new != nil {
			if at, ok := j.known[new.Name]; ok {
				t.Errorf("told of %s as new, but it was there at %s", new.Name, at)
			}
			j.known[new.Name] = new.ResourceVersion
		}
	}
}

// take returns what was told since the last take.
func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	lines := j.lines
	j.lines = nil
	return lines
}

// running starts a cache of pods and waits for it in the end.
func running(t *testing.T, s *store.Store) (*store.Cache[*corev1.Pod], *journal) {
	t.Helper()
	j := &journal{}
	c := store.NewCache(s, store.Pods, map[string]func(*corev1.Pod) []string{"node": byNode})
	c.OnChange(j.note(t))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v, want nil", err)
		}
	})
	return c, j
}

func podNames(pods []*corev1.Pod) []string {
	names := make([]string, 0, len(pods))
	for _, p := range pods {
		names = append(names, p.Name)
	}
	sort.Strings(names)
	return names
}

func TestCacheFollowsTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storetest.New(t)
		pods := store.Of[*corev1.Pod](s, store.Pods)
		write := func(_ *corev1.Pod, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		write(pods.Create(t.Context(), storetest.Pod("a", "old", node("n1"))))
		c, j := running(t, s)
		<-c.Synced()
		if got := j.take(); !slices.Equal(got, []string{"+old"}) {
			t.Errorf("told %q when synced, want the pod that was there", got)
		}
		write(pods.Create(t.Context(), storetest.Pod("a", "new")))
		write(pods.Update(t.Context(), storetest.Pod("a", "new", node("n1")), 0))
		write(pods.Delete(t.Context(), "a", "old", 0, ""))
		write(pods.Create(t.Context(), storetest.Pod("b", "old", node("n2"))))
		synctest.Wait()
		if got, want := j.take(), []string{"+new", "~new", "-old", "+old"}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		if got := podNames(c.List()); !slices.Equal(got, []string{"new", "old"}) {
			t.Errorf("list %q, want new and old", got)
		}
		if got, ok := c.Get("a", "new"); !ok || got.Spec.NodeName != "n1" || got.ResourceVersion != "3" {
			t.Errorf("get is %v, %v, want the pod on n1 at 3", got, ok)
		}
		if got, ok := c.Get("a", "old"); ok || got != nil {
			t.Errorf("get of what was deleted is %v, %v, want nil", got, ok)
		}
		for value, want := range map[string][]string{"n1": {"new"}, "n2": {"old"}, "n3": {}, "": {}} {
			if got := podNames(c.ByIndex("node", value)); !slices.Equal(got, want) {
				t.Errorf("pods on %q are %q, want %q", value, got, want)
			}
		}
		write(pods.Update(t.Context(), storetest.Pod("a", "new", node("n3")), 0))
		synctest.Wait()
		for value, want := range map[string][]string{"n1": {}, "n3": {"new"}} {
			if got := podNames(c.ByIndex("node", value)); !slices.Equal(got, want) {
				t.Errorf("pods on %q after the move are %q, want %q", value, got, want)
			}
		}
	})
}

// The cache of a node that was cut off is given a snapshot instead of the
// events between: its handlers must be told the difference, as if they had
// seen it happen.
func TestCacheTellsTheDifferenceAfterASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		build := func(names ...string) (*store.Store, *fsm.Machine) {
			s, _, m := storetest.Open(t)
			for _, name := range names {
				if _, err := s.Table(store.Pods).Create(t.Context(), storetest.Pod("a", name, node("n1"))); err != nil {
					t.Fatal(err)
				}
			}
			return s, m
		}
		there, m := build("same", "changed", "gone", "replaced")
		here, mine := build("same", "changed", "gone", "replaced")
		c, j := running(t, here)
		<-c.Synced()
		j.take()
		same, _ := c.Get("a", "same")

		table := there.Table(store.Pods)
		_, e1 := table.Update(t.Context(), storetest.Pod("a", "changed", node("n2")), 0)
		_, e2 := table.Delete(t.Context(), "a", "gone", 0, "")
		_, e3 := table.Delete(t.Context(), "a", "replaced", 0, "")
		_, e4 := table.Create(t.Context(), storetest.Pod("a", "replaced", func(p *corev1.Pod) { p.UID = types.UID("second") }))
		_, e5 := table.Create(t.Context(), storetest.Pod("a", "created"))
		for _, err := range []error{e1, e2, e3, e4, e5} {
			if err != nil {
				t.Fatal(err)
			}
		}
		write, err := m.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		var snapshot bytes.Buffer
		if err := write(&snapshot); err != nil {
			t.Fatal(err)
		}
		if err := mine.Restore(&snapshot); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got, want := j.take(), []string{"-gone", "~changed", "+created", "-replaced", "+replaced"}; !slices.Equal(got, want) {
			t.Errorf("told %q, want %q", got, want)
		}
		if got, _ := c.Get("a", "same"); got != same {
			t.Error("what did not change was decoded again")
		}
		if got := podNames(c.ByIndex("node", "n1")); !slices.Equal(got, []string{"same"}) {
			t.Errorf("pods on n1 are %q, want same", got)
		}
		// It goes on from there.
		if _, err := here.Table(store.Pods).Create(t.Context(), storetest.Pod("a", "later")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := j.take(); !slices.Equal(got, []string{"+later"}) {
			t.Errorf("told %q, want +later", got)
		}
	})
}

// A cache whose handler is slower than the writers falls out of a short
// history again and again. Whatever it missed, it must end with the state.
func TestCacheCatchesUpWhenItFallsBehind(t *testing.T) {
	machine := fsm.New(fsm.Config{HistoryEvents: 20})
	s := store.New(storetest.NewLog(machine), machine)
	c := store.NewCache(s, store.Pods, map[string]func(*corev1.Pod) []string{"node": byNode})
	j := &journal{}
	note := j.note(t)
	calls := 0
	c.OnChange(func(old, new *corev1.Pod) {
		note(old, new)
		if calls++; calls%10 == 0 {
			time.Sleep(time.Millisecond)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Errorf("Run ended with %v, want nil", err)
		}
	})
	pods := store.Of[*corev1.Pod](s, store.Pods)
	for i := range 3000 {
		name := fmt.Sprintf("pod-%d", i*7%50)
		var err error
		if _, getErr := pods.Get(t.Context(), "a", name); getErr != nil {
			_, err = pods.Create(t.Context(), storetest.Pod("a", name))
		} else if i%3 == 0 {
			_, err = pods.Delete(t.Context(), "a", name, 0, "")
		} else {
			_, err = pods.Update(t.Context(), storetest.Pod("a", name, node(fmt.Sprint("n", i))), 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := c.WaitRevision(t.Context(), s.Revision()); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	all, _, err := pods.List(t.Context(), store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		want[p.Name] = p.ResourceVersion
	}
	got := map[string]string{}
	for _, p := range c.List() {
		got[p.Name] = p.ResourceVersion
		if found := podNames(c.ByIndex("node", p.Spec.NodeName)); p.Spec.NodeName != "" && !slices.Contains(found, p.Name) {
			t.Errorf("%s on %s is not in the index: %q", p.Name, p.Spec.NodeName, found)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("the cache shows %v, want %v", got, want)
	}
	if !maps.Equal(j.known, want) {
		t.Errorf("handlers know %v, want %v", j.known, want)
	}
	cancel()
	wg.Wait()
}

func TestWaitRevisionShowsOwnWritesAndIgnoresOtherKinds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storetest.New(t)
		c := store.NewCache[*corev1.Pod](s, store.Pods, nil)
		release := make(chan struct{})
		told := 0
		c.OnChange(func(_, _ *corev1.Pod) { <-release; told++ })
		ctx, cancel := context.WithCancel(t.Context())
		var running, waiting sync.WaitGroup
		running.Go(func() { _ = c.Run(ctx) })
		<-c.Synced()
		waited := func(revision uint64) *bool {
			done := new(bool)
			waiting.Go(func() {
				if err := c.WaitRevision(t.Context(), revision); err != nil {
					t.Error(err)
				}
				*done = true
			})
			synctest.Wait()
			return done
		}
		if _, err := s.Table(store.Pods).Create(t.Context(), storetest.Pod("a", "web")); err != nil {
			t.Fatal(err)
		}
		first := waited(1)
		if *first {
			t.Error("the wait ended before handlers were told")
		}
		future := waited(3)
		close(release)
		synctest.Wait()
		if !*first || told != 1 {
			t.Errorf("the wait has ended: %v, %d told, want true and 1", *first, told)
		}
		if *future {
			t.Error("the wait for a revision to come has ended")
		}
		for i := range 2 {
			if _, err := s.Table(store.Nodes).Create(t.Context(), &corev1.Node{ObjectMeta: storetest.Pod("", fmt.Sprint("n", i)).ObjectMeta}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if !*future {
			t.Error("the wait for a revision of another kind goes on, though no pod changed")
		}
		waiting.Wait()
		cancel()
		running.Wait()
	})
}

func TestWaitRevisionWaitsForTheFirstList(t *testing.T) {
	s := storetest.New(t)
	c := store.NewCache[*corev1.Pod](s, store.Pods, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := c.WaitRevision(ctx, 0); err == nil {
		t.Error("a cache that does not run yet has been waited for, want the context's error")
	}
}

func BenchmarkCacheGet(b *testing.B) {
	s := storetest.New(b)
	c := store.NewCache[*corev1.Pod](s, store.Pods, nil)
	for i := range 10_000 {
		if _, err := s.Table(store.Pods).Create(b.Context(), storetest.Pod("a", fmt.Sprint("pod-", i))); err != nil {
			b.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = c.Run(ctx) })
	<-c.Synced()
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := c.Get("a", "pod-4711"); !ok {
			b.Fatal("the pod is missing")
		}
	}
	cancel()
	wg.Wait()
}

func BenchmarkUpdate(b *testing.B) {
	s := storetest.New(b)
	table := s.Table(store.Pods)
	if _, err := table.Create(b.Context(), storetest.Pod("a", "web")); err != nil {
		b.Fatal(err)
	}
	pods := []*corev1.Pod{storetest.Pod("a", "web", node("n1")), storetest.Pod("a", "web", node("n2"))}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := table.Update(b.Context(), pods[i%2], 0); err != nil {
			b.Fatal(err)
		}
	}
}

// A cache of many objects that one manager made must not hold their managed
// fields as often as there are objects.
func TestObjectsOfACacheShareTheirManagedFields(t *testing.T) {
	s := storetest.New(t)
	pods := store.Of[*corev1.Pod](s, store.Pods)
	fields := []string{`{"f:spec":{"f:nodeName":{}}}`, `{"f:status":{}}`}
	for i := range 4 {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("pod-", i)}}
		pod.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m", FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{}}, {Manager: "none"}}
		pod.ManagedFields[0].FieldsV1.SetRawBytes([]byte(fields[i%2]))
		if _, err := pods.Create(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
	}
	cache := store.NewCache[*corev1.Pod](s, store.Pods, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cache.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	<-cache.Synced()
	seen := map[*metav1.FieldsV1]bool{}
	for i := range 4 {
		pod, ok := cache.Get("default", fmt.Sprint("pod-", i))
		if !ok {
			t.Fatalf("pod-%d is missing", i)
		}
		got := pod.ManagedFields[0].FieldsV1
		if string(got.GetRawBytes()) != fields[i%2] {
			t.Errorf("pod-%d has %s, want %s", i, got.GetRawBytes(), fields[i%2])
		}
		seen[got] = true
	}
	if len(seen) != len(fields) {
		t.Errorf("%d sets of fields in memory, want %d", len(seen), len(fields))
	}
}
