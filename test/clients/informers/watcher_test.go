package informers

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// watcher is an informer and what it has told its handler.
type watcher struct {
	name     string
	side     string // of which objects; "" all
	resource string
	informer cache.SharedIndexInformer
	starts   *starts

	mu   sync.Mutex
	told map[string][]string // by object, as owner.told has it
	gaps int                 // deletions that were found out by a list
}

func (w *watcher) OnAdd(object any, _ bool) { w.hear("A", object) }
func (w *watcher) OnUpdate(_, object any)   { w.hear("M", object) }
func (w *watcher) OnDelete(object any) {
	if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = last.Obj
		w.mu.Lock()
		w.gaps++
		w.mu.Unlock()
	}
	w.hear("D", object)
}

func (w *watcher) hear(what string, object any) {
	o := object.(metav1.Object)
	s := stateOf(o)
	if s.seq == 0 {
		return // not one of ours, as kube-root-ca.crt
	}
	if what != "D" {
		what += fmt.Sprint(s.seq)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told[o.GetName()] = append(w.told[o.GetName()], what)
}

// holds are the objects in the informer's cache, with their revisions.
func (w *watcher) holds() map[string]string {
	all := map[string]string{}
	for _, object := range w.informer.GetStore().List() {
		if o := object.(metav1.Object); stateOf(o).seq != 0 {
			all[o.GetName()] = o.GetResourceVersion()
		}
	}
	return all
}

// check compares what was told with what there was to tell. Nobody writes while
// it runs, and the cache is complete.
func (w *watcher) check(t *testing.T, owners []*owner) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := w.starts.count.Load(); n != 1 || w.gaps != 0 {
		t.Errorf("%s: listed %d times, %d deletions found out by it: want one list at the start, and watches that go on where they were", w.name, n, w.gaps)
	}
	for _, o := range owners {
		got, want := w.told[o.name], o.told(w.side)
		if slices.Equal(got, want) {
			continue
		}
		at := 0
		for at < len(got) && at < len(want) && got[at] == want[at] {
			at++
		}
		t.Errorf("%s, %s: heard %d changes, want %d; the same up to the %dth, then %q, want %q",
			w.name, o.name, len(got), len(want), at, upTo(got[at:], 8), upTo(want[at:], 8))
	}
}

func upTo(list []string, n int) []string { return list[:min(n, len(list))] }

// starts counts how often a client asked for everything, rather than for what
// has changed since, and was answered.
type starts struct{ count atomic.Int64 }

// on counts what is asked with a configuration about one resource.
func (s *starts) on(config *rest.Config, resource string) *rest.Config {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			answer, err := next.RoundTrip(r)
			query := r.URL.Query()
			all := query.Get("watch") == "" || query.Get("sendInitialEvents") == "true"
			if err == nil && answer.StatusCode == http.StatusOK && all && strings.HasSuffix(r.URL.Path, "/"+resource) {
				s.count.Add(1)
			}
			return answer, err
		})
	})
	return config
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// differ is how a cache differs from what it should hold, "" if it does not.
func differ(got, want map[string]string) string {
	if maps.Equal(got, want) {
		return ""
	}
	var all []string
	for name, rv := range want {
		if got[name] != rv {
			all = append(all, fmt.Sprintf("%s at %q, want %s", name, got[name], rv))
		}
	}
	for name, rv := range got {
		if want[name] == "" {
			all = append(all, fmt.Sprintf("%s at %s, want none", name, rv))
		}
	}
	slices.Sort(all)
	return strings.Join(upTo(all, 5), "; ")
}
