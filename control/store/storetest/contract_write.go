package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

func testCreate(t *testing.T, s *store.Store) {
	given := Pod("a", "web")
	given.ResourceVersion, given.Kind = "77", "Pod"
	before := given.DeepCopy()
	created := mustCreate(t, s, given)
	if !apiequality.Semantic.DeepEqual(given, before) {
		t.Error("create modified the object it was given")
	}
	if got := revision(t, created); got == 0 || got > s.Revision() {
		t.Errorf("resourceVersion %d, want one up to %d", got, s.Revision())
	}
	if created.Kind != "" {
		t.Errorf("kind %q in the result, want none: it is not stored", created.Kind)
	}
	got, err := pods(s).Get(t.Context(), "a", "web")
	if err != nil || !apiequality.Semantic.DeepEqual(got, created) {
		t.Errorf("get returns %v, %v, want what create returned: %v", got, err, created)
	}
	_, err = pods(s).Create(t.Context(), Pod("a", "web"))
	wantError(t, "create again", err, store.ErrExists)
	_, err = pods(s).Get(t.Context(), "b", "web")
	wantError(t, "get from another namespace", err, store.ErrNotFound)
}

func testUpdate(t *testing.T, s *store.Store) {
	_, err := pods(s).Update(t.Context(), Pod("a", "web"), 0)
	wantError(t, "update of nothing", err, store.ErrNotFound)
	_, err = pods(s).Update(t.Context(), Pod("a", "web"), 1)
	wantError(t, "update of nothing at a revision", err, store.ErrNotFound)
	first := mustCreate(t, s, Pod("a", "web"))
	second, err := pods(s).Update(t.Context(), Pod("a", "web", onNode("n1")), revision(t, first))
	if err != nil {
		t.Fatal(err)
	}
	if revision(t, second) <= revision(t, first) {
		t.Errorf("resourceVersion %s after %s, want a later one", second.ResourceVersion, first.ResourceVersion)
	}
	_, err = pods(s).Update(t.Context(), Pod("a", "web", onNode("n2")), revision(t, first))
	wantError(t, "update at an old revision", err, store.ErrConflict)
	_, err = pods(s).Update(t.Context(), Pod("a", "web", onNode("n2")), revision(t, second)+1)
	wantError(t, "update at a revision to come", err, store.ErrConflict)
	third := mustUpdate(t, s, Pod("a", "web", onNode("n3")))
	if got, err := pods(s).Get(t.Context(), "a", "web"); err != nil || got.Spec.NodeName != "n3" || got.ResourceVersion != third.ResourceVersion {
		t.Errorf("get returns %v, %v, want the third state", got, err)
	}
}

func testUpdateOfNothing(t *testing.T, s *store.Store) {
	created := mustCreate(t, s, Pod("a", "web"))
	mustCreate(t, s, Pod("a", "other"))
	before := s.Revision()
	for _, guard := range []uint64{0, revision(t, created)} {
		same, err := pods(s).Update(t.Context(), created, guard)
		if err != nil || same.ResourceVersion != created.ResourceVersion {
			t.Errorf("update at %d returns %v, %v, want resourceVersion %s", guard, same, err, created.ResourceVersion)
		}
	}
	if got := s.Revision(); got != before {
		t.Errorf("revision %d, want %d as before", got, before)
	}
	changed := mustUpdate(t, s, Pod("a", "web", onNode("n1")))
	_, err := pods(s).Update(t.Context(), changed, revision(t, created))
	wantError(t, "the same bytes at an old revision", err, store.ErrConflict)
}

func testDelete(t *testing.T, s *store.Store) {
	_, err := pods(s).Delete(t.Context(), "a", "web", 0, "")
	wantError(t, "delete of nothing", err, store.ErrNotFound)
	created := mustCreate(t, s, Pod("a", "web"))
	updated := mustUpdate(t, s, Pod("a", "web", onNode("n1")))
	_, err = pods(s).Delete(t.Context(), "a", "web", revision(t, created), "")
	wantError(t, "delete at an old revision", err, store.ErrConflict)
	_, err = pods(s).Delete(t.Context(), "a", "web", 0, "another")
	wantError(t, "delete of another uid", err, store.ErrConflict)
	deleted, err := pods(s).Delete(t.Context(), "a", "web", revision(t, updated), updated.UID)
	if err != nil {
		t.Fatal(err)
	}
	if deleted.Spec.NodeName != "n1" || revision(t, deleted) <= revision(t, updated) {
		t.Errorf("delete returns node %q at %s, want the last state at the revision of the delete", deleted.Spec.NodeName, deleted.ResourceVersion)
	}
	_, err = pods(s).Get(t.Context(), "a", "web")
	wantError(t, "get after delete", err, store.ErrNotFound)
	mustCreate(t, s, Pod("a", "web"))
}

func testInvalid(t *testing.T, s *store.Store) {
	for _, pod := range []*corev1.Pod{Pod("", "web"), Pod("a", ""), Pod("a", "x/y"), Pod("a/b", "web")} {
		_, err := pods(s).Create(t.Context(), pod)
		wantError(t, fmt.Sprintf("create %q in %q", pod.Name, pod.Namespace), err, store.ErrInvalid)
	}
	_, err := s.Table(store.Nodes).Create(t.Context(), Pod("", "n1"))
	wantError(t, "a pod among nodes", err, store.ErrInvalid)
	_, err = s.Table(store.Nodes).Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Namespace: "a"}})
	wantError(t, "a node in a namespace", err, store.ErrInvalid)
	_, err = pods(s).Create(t.Context(), Pod("a", "web", labelled("no \xff utf-8")))
	wantError(t, "a label that is no UTF-8", err, store.ErrInvalid)
	_, _, err = pods(s).List(t.Context(), store.ListOptions{Namespace: "a/b"})
	wantError(t, "list of a namespace with a slash", err, store.ErrInvalid)
}

// Many writers count up one annotation from what they read. With guards,
// every increment must be there in the end.
func testConcurrentUpdates(t *testing.T, s *store.Store) {
	const writers, each = 8, 20
	mustCreate(t, s, Pod("a", "counter", func(p *corev1.Pod) { p.Annotations = map[string]string{} }))
	increment := func(writer int) error {
		for {
			pod, err := pods(s).Get(t.Context(), "a", "counter")
			if err != nil {
				return err
			}
			pod.Annotations = maps.Clone(pod.Annotations)
			if pod.Annotations == nil {
				pod.Annotations = map[string]string{}
			}
			n, _ := strconv.Atoi(pod.Annotations["n"])
			pod.Annotations["n"] = strconv.Itoa(n + 1)
			pod.Annotations["by"] = strconv.Itoa(writer)
			at, err := strconv.ParseUint(pod.ResourceVersion, 10, 64)
			if err != nil {
				return err
			}
			_, err = pods(s).Update(t.Context(), pod, at)
			if !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
	}
	var wg sync.WaitGroup
	for writer := range writers {
		wg.Go(func() {
			for range each {
				if err := increment(writer); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	pod, err := pods(s).Get(t.Context(), "a", "counter")
	if err != nil || pod.Annotations["n"] != strconv.Itoa(writers*each) {
		t.Errorf("counted to %s, %v, want %d", pod.Annotations["n"], err, writers*each)
	}
}
func testSystem(t *testing.T, s *store.Store) {
	system := s.System()
	_, _, err := system.Get("token/x")
	wantError(t, "get of nothing", err, store.ErrNotFound)
	_, err = system.Update(t.Context(), "token/x", []byte("1"), 0)
	wantError(t, "update of nothing", err, store.ErrNotFound)
	wantError(t, "delete of nothing", system.Delete(t.Context(), "token/x", 0), store.ErrNotFound)
	first, err := system.Create(t.Context(), "token/x", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = system.Create(t.Context(), "token/x", []byte("2"))
	wantError(t, "create again", err, store.ErrExists)
	second, err := system.Update(t.Context(), "token/x", []byte("2"), first)
	if err != nil {
		t.Fatal(err)
	}
	_, err = system.Update(t.Context(), "token/x", []byte("3"), first)
	wantError(t, "update at an old revision", err, store.ErrConflict)
	wantError(t, "delete at an old revision", system.Delete(t.Context(), "token/x", first), store.ErrConflict)
	if value, at, err := system.Get("token/x"); string(value) != "2" || at != second || err != nil {
		t.Errorf("get is %q, %d, %v, want \"2\" at %d", value, at, err, second)
	}
	ctx, end := context.WithCancel(t.Context())
	changes, ended := make(chan struct{}), make(chan error)
	go func() { ended <- system.Follow(ctx, "settings", func() { changes <- struct{}{} }) }()
	<-changes // as it is
	if _, err := system.Create(t.Context(), "settings", nil); err != nil {
		t.Fatal(err)
	}
	<-changes
	end()
	if err := <-ended; err != nil {
		t.Errorf("follow ended with %v", err)
	}
	if got := system.List("token/"); len(got) != 1 || got[0].Key != "muster/token/x" {
		t.Errorf("list is %v, want muster/token/x", got)
	}
	if err := system.Delete(t.Context(), "token/x", second); err != nil {
		t.Error(err)
	}
	if got := len(system.List("")); got != 1 {
		t.Errorf("%d system keys, want 1", got)
	}
}
