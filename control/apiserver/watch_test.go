package apiserver

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// next is the watch's next event; a watch that says nothing fails the test.
func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case event, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch ended")
		}
		return event
	case <-time.After(5 * time.Second):
		t.Fatal("no event within 5 s")
	}
	return watch.Event{}
}

func wantEvent(t *testing.T, w watch.Interface, kind watch.EventType, name string) metav1.Object {
	t.Helper()
	event := next(t, w)
	obj, ok := event.Object.(metav1.Object)
	if !ok {
		t.Fatalf("%s of %T: %+v, want %s of %s", event.Type, event.Object, event.Object, kind, name)
	}
	if event.Type != kind || obj.GetName() != name {
		t.Fatalf("%s of %q, want %s of %q", event.Type, obj.GetName(), kind, name)
	}
	return obj
}

func TestWatchTellsEveryChangeInOrder(t *testing.T) {
	for _, media := range []string{mediaJSON, mediaProtobuf} {
		t.Run(media, func(t *testing.T) {
			f := newFixture(t)
			ctx := t.Context()
			pods := f.client(f.admin(), media).CoreV1().Pods("default")
			first, err := pods.Create(ctx, newPod("a"), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			w, err := pods.Watch(ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			if _, err := pods.Create(ctx, newPod("b"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			b := wantEvent(t, w, watch.Added, "b").(*corev1.Pod)
			if b.ResourceVersion == "" || b.Spec.Containers[0].Image != "example.org/web:1" {
				t.Errorf("event without its object: %+v", b)
			}
			b.Labels = map[string]string{"x": "y"}
			if _, err := pods.Update(ctx, b, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			changed := wantEvent(t, w, watch.Modified, "b")
			if err := pods.Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			gone := wantEvent(t, w, watch.Deleted, "b")
			if gone.GetResourceVersion() <= changed.GetResourceVersion() {
				t.Errorf("deleted at version %s, want one after %s", gone.GetResourceVersion(), changed.GetResourceVersion())
			}

			// Resumed elsewhere from what was seen: the delete again.
			again, err := pods.Watch(ctx, metav1.ListOptions{ResourceVersion: changed.GetResourceVersion()})
			if err != nil {
				t.Fatal(err)
			}
			defer again.Stop()
			wantEvent(t, again, watch.Deleted, "b")
		})
	}
}

func TestWatchSelectorsTurnUpdatesIntoAddsAndDeletes(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	pods := f.client(f.admin(), mediaJSON).CoreV1().Pods("default")
	w, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	set := func(value string) {
		t.Helper()
		if _, err := pods.Patch(ctx, "a", "application/merge-patch+json", []byte(`{"metadata":{"labels":{"app":"`+value+`"}}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pods.Create(ctx, newPod("a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	set("web")
	wantEvent(t, w, watch.Added, "a")
	set("other")
	wantEvent(t, w, watch.Deleted, "a")
	set("web")
	wantEvent(t, w, watch.Added, "a")
}

// What client-go's informers do instead of a list: the state as events, then a
// bookmark that says so, then changes.
func TestWatchListEndsWithItsBookmark(t *testing.T) {
	for _, media := range []string{mediaJSON, mediaProtobuf} {
		t.Run(media, func(t *testing.T) {
			f := newFixture(t)
			ctx := t.Context()
			pods := f.client(f.admin(), media).CoreV1().Pods("default")
			for _, name := range []string{"a", "b"} {
				if _, err := pods.Create(ctx, newPod(name), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			yes := true
			w, err := pods.Watch(ctx, metav1.ListOptions{SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Stop()
			wantEvent(t, w, watch.Added, "a")
			b := wantEvent(t, w, watch.Added, "b")
			end := wantEvent(t, w, watch.Bookmark, "")
			if end.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "true" || end.GetResourceVersion() != b.GetResourceVersion() {
				t.Errorf("bookmark %+v, want the annotation and version %s", end, b.GetResourceVersion())
			}
			if _, err := pods.Create(ctx, newPod("c"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			wantEvent(t, w, watch.Added, "c")
		})
	}
}

func TestWatchEndsAtItsTimeoutWithABookmark(t *testing.T) {
	f := newFixture(t)
	pods := f.client(f.admin(), mediaProtobuf).CoreV1().Pods("default")
	second := int64(1)
	w, err := pods.Watch(t.Context(), metav1.ListOptions{TimeoutSeconds: &second, AllowWatchBookmarks: true, ResourceVersion: fmt.Sprint(f.store.Revision())})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if got := wantEvent(t, w, watch.Bookmark, ""); got.GetResourceVersion() != fmt.Sprint(f.store.Revision()) {
		t.Errorf("bookmark at %s, want %d", got.GetResourceVersion(), f.store.Revision())
	}
	select {
	case event, ok := <-w.ResultChan():
		if ok {
			t.Errorf("got %+v, want the end", event)
		}
	case <-time.After(5 * time.Second):
		t.Error("the watch did not end")
	}
}

// kubectl wait --timeout hung for as long as a watch's header was held back.
func TestWatchSendsItsHeaderAtOnce(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", f.http.URL+"/api/v1/pods?watch=1&resourceVersion="+fmt.Sprint(f.store.Revision()), nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := f.httpClient(f.admin()).Do(r)
	if err != nil {
		t.Fatalf("no header without an event: %v", err)
	}
	defer response.Body.Close()
	if got := response.Header.Get("Content-Type"); got != mediaJSON {
		t.Errorf("Content-Type %q, want %q", got, mediaJSON)
	}
}

func TestExpiredWatchIsToldInTheStream(t *testing.T) {
	f := newFixture(t)
	// The history that is kept begins with the machine; a revision before it can
	// only be asked for once something was forgotten.
	for i := range 3 {
		if _, err := f.reg.Create(t.Context(), resource.Pods, "default", newPod(fmt.Sprintf("p%d", i)), resource.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	restored := f.restored()
	w, err := restored.client(restored.admin(), mediaJSON).CoreV1().Pods("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: "1"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	event := next(t, w)
	if event.Type != watch.Error || !apierrors.IsResourceExpired(apierrors.FromObject(event.Object)) {
		t.Errorf("%s: %+v, want an ERROR with Expired", event.Type, event.Object)
	}
}

// kubectl get -w: rows, with columns once.
func TestWatchAsTable(t *testing.T) {
	f := newFixture(t)
	if _, err := f.reg.Create(t.Context(), resource.Pods, "default", newPod("a"), resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", f.http.URL+"/api/v1/namespaces/default/pods?watch=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
	response, err := f.httpClient(f.admin()).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	read := func() metav1.Table {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("no event: %v", lines.Err())
		}
		var event struct {
			Type   string
			Object metav1.Table
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil || event.Object.Kind != "Table" || len(event.Object.Rows) != 1 {
			t.Fatalf("%v: %s", err, lines.Bytes())
		}
		return event.Object
	}
	if first := read(); len(first.ColumnDefinitions) == 0 || first.Rows[0].Cells[0] != "a" {
		t.Errorf("first event without columns or row: %+v", first)
	}
	if _, err := f.reg.Create(ctx, resource.Pods, "default", newPod("b"), resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if second := read(); len(second.ColumnDefinitions) != 0 || second.Rows[0].Cells[0] != "b" {
		t.Errorf("second event with columns or another row: %+v", second)
	}
}

// An informer in each form, against writers: at the end it holds what is there.
func TestInformersEndUpWithTheState(t *testing.T) {
	for _, media := range []string{mediaJSON, mediaProtobuf} {
		t.Run(media, func(t *testing.T) {
			f := newFixture(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			client := f.client(f.admin(), media)
			pods := client.CoreV1().Pods("default")
			if _, err := pods.Create(ctx, newPod("before"), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			factory := informers.NewSharedInformerFactory(client, 0)
			informer := factory.Core().V1().Pods().Informer()
			factory.Start(ctx.Done())
			defer factory.Shutdown()
			defer cancel()
			if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
				t.Fatal("the informer never synced")
			}
			var writers sync.WaitGroup
			for i := range 4 {
				writers.Go(func() {
					for j := range 10 {
						name := fmt.Sprintf("p%d-%d", i, j)
						if _, err := pods.Create(ctx, newPod(name), metav1.CreateOptions{}); err != nil {
							t.Error(err)
						}
						if j%2 == 0 {
							if err := pods.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
								t.Error(err)
							}
						}
					}
				})
			}
			writers.Wait()
			want := names(t, f)
			deadline := time.Now().Add(5 * time.Second)
			for {
				got := informer.GetStore().ListKeys()
				slices.Sort(got)
				if slices.Equal(got, want) {
					return
				}
				if time.Now().After(deadline) {
					t.Fatalf("informer holds %v, want %v", got, want)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
}

func names(t *testing.T, f *fixture) []string {
	t.Helper()
	page, err := f.store.Table(store.Pods).List(t.Context(), store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, item := range page.Items {
		keys = append(keys, strings.TrimPrefix(item.Key, "pods/"))
	}
	return keys
}

// A client that opens a watch and never reads must not hold a goroutine and its
// buffers for ever. A pipe without a buffer stands for a full TCP window.
func TestWatchOfADeafClientEnds(t *testing.T) {
	f := newFixture(t)
	client, server := net.Pipe()
	defer client.Close()
	w := &deafWriter{conn: server}
	f.server.slowClient = 50 * time.Millisecond
	if _, err := f.reg.Create(t.Context(), resource.Pods, "default", newPod("a"), resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), "GET", "/api/v1/pods?watch=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		done <- f.server.watch(w, r, &call{target: target{verb: "watch", version: "v1", resource: "pods"}, kind: resource.Pods})
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("watch: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the watch still waits for a client that does not read")
	}
}

type deafWriter struct{ conn net.Conn }

func (d *deafWriter) Header() http.Header         { return http.Header{} }
func (d *deafWriter) WriteHeader(int)             {}
func (d *deafWriter) Flush()                      {}
func (d *deafWriter) Write(b []byte) (int, error) { return d.conn.Write(b) }
func (d *deafWriter) SetWriteDeadline(t time.Time) error {
	return d.conn.SetWriteDeadline(t)
}

var _ io.Writer = (*deafWriter)(nil)
