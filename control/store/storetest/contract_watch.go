package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/musterhq/muster/control/store"
)

// follow returns the next n events, told in one line each.
func follow(t *testing.T, w *store.Watch, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var told []string
	for len(told) < n {
		events, _, err := w.Next(ctx)
		if err != nil {
			t.Fatalf("after %q: %v", told, err)
		}
		for _, e := range events {
			obj, err := store.Decode(store.Pods, e.Item)
			if err != nil {
				t.Fatal(err)
			}
			pod := obj.(*corev1.Pod)
			told = append(told, fmt.Sprintf("%s %s app=%s node=%s at %s", e.Type, pod.Name, pod.Labels["app"], pod.Spec.NodeName, pod.ResourceVersion))
		}
	}
	return told
}

func watchPods(t *testing.T, s *store.Store, opts store.WatchOptions) *store.Watch {
	t.Helper()
	w, err := s.Table(store.Pods).Watch(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func testWatch(t *testing.T, s *store.Store) {
	mustCreate(t, s, Pod("a", "before"))
	at := s.Revision()
	live := watchPods(t, s, store.WatchOptions{Namespace: "a", After: at})
	first := mustCreate(t, s, Pod("a", "web"))
	mustCreate(t, s, Pod("b", "elsewhere"))
	second := mustUpdate(t, s, Pod("a", "web", onNode("n1")))
	third, err := pods(s).Delete(t.Context(), "a", "web", 0, "")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"ADDED web app=web node= at " + first.ResourceVersion,
		"MODIFIED web app=web node=n1 at " + second.ResourceVersion,
		"DELETED web app=web node=n1 at " + third.ResourceVersion,
	}
	for name, w := range map[string]*store.Watch{
		"running": live,
		"resumed": watchPods(t, s, store.WatchOptions{Namespace: "a", After: at}),
	} {
		if got := follow(t, w, 3); !slices.Equal(got, want) {
			t.Errorf("%s watch tells %q, want %q", name, got, want)
		}
	}
	if got := follow(t, watchPods(t, s, store.WatchOptions{Namespace: "a", After: revision(t, first)}), 2); !slices.Equal(got, want[1:]) {
		t.Errorf("watch resumed after the first event tells %q, want %q", got, want[1:])
	}
	if got, want := live.Progress(), s.Revision(); got != want {
		t.Errorf("progress %d with everything told, want %d", got, want)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	events, reached, err := live.Next(ctx)
	if len(events) != 0 || reached != s.Revision() || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("next is %v, %d, %v when nothing happens, want none, %d and %v", events, reached, err, s.Revision(), context.DeadlineExceeded)
	}
}

func testWatchSelects(t *testing.T, s *store.Store) {
	at := s.Revision()
	web, db := labels.SelectorFromSet(labels.Set{"app": "web"}), labels.SelectorFromSet(labels.Set{"app": "db"})
	r := []string{"0"}
	step := func(pod *corev1.Pod) { r = append(r, pod.ResourceVersion) }
	step(mustCreate(t, s, Pod("a", "x", labelled("web"))))
	step(mustUpdate(t, s, Pod("a", "x", labelled("web"), onNode("n1"))))
	step(mustUpdate(t, s, Pod("a", "x", labelled("db"), onNode("n1"))))
	step(mustUpdate(t, s, Pod("a", "x", labelled("db"), onNode("n2"))))
	step(mustUpdate(t, s, Pod("a", "x", labelled("web"), onNode("n2"))))
	deleted, err := pods(s).Delete(t.Context(), "a", "x", 0, "")
	if err != nil {
		t.Fatal(err)
	}
	step(deleted)
	step(mustCreate(t, s, Pod("a", "xy", labelled("other"))))
	for name, tt := range map[string]struct {
		opts store.WatchOptions
		want []string
	}{
		"app=web": {store.WatchOptions{Labels: web}, []string{
			"ADDED x app=web node= at " + r[1],
			"MODIFIED x app=web node=n1 at " + r[2],
			"DELETED x app=web node=n1 at " + r[3],
			"ADDED x app=web node=n2 at " + r[5],
			"DELETED x app=web node=n2 at " + r[6],
		}},
		"app=db": {store.WatchOptions{Labels: db}, []string{
			"ADDED x app=db node=n1 at " + r[3],
			"MODIFIED x app=db node=n2 at " + r[4],
			"DELETED x app=db node=n2 at " + r[5],
		}},
		"node n1": {store.WatchOptions{Fields: fields.OneTermEqualSelector("spec.nodeName", "n1")}, []string{
			"ADDED x app=web node=n1 at " + r[2],
			"MODIFIED x app=db node=n1 at " + r[3],
			"DELETED x app=db node=n1 at " + r[4],
		}},
		"its name": {store.WatchOptions{Namespace: "a", Labels: web, Fields: fields.OneTermEqualSelector("metadata.name", "x")}, []string{
			"ADDED x app=web node= at " + r[1],
			"MODIFIED x app=web node=n1 at " + r[2],
			"DELETED x app=web node=n1 at " + r[3],
			"ADDED x app=web node=n2 at " + r[5],
			"DELETED x app=web node=n2 at " + r[6],
		}},
	} {
		tt.opts.After = at
		w := watchPods(t, s, tt.opts)
		if got := follow(t, w, len(tt.want)); !slices.Equal(got, tt.want) {
			t.Errorf("watch of %s tells %q, want %q", name, got, tt.want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if events, reached, err := w.Next(ctx); len(events) > 0 || reached != s.Revision() || err == nil {
			t.Errorf("watch of %s goes on with %v, %d, %v, want nothing up to %d", name, events, reached, err, s.Revision())
		}
		cancel()
	}
}
