package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

func testBatch(t *testing.T, s *store.Store) {
	old := mustCreate(t, s, Pod("a", "old"))
	var writes []store.Write
	for i := range 500 {
		writes = append(writes, store.Write{Verb: store.Create, Spec: store.Pods, Object: Pod("a", fmt.Sprintf("pod-%d", i))})
	}
	writes = append(writes,
		store.Write{Verb: store.Create, Spec: store.Pods, Object: Pod("a", "old")},
		store.Write{Verb: store.Update, Spec: store.Pods, Object: Pod("a", "none")},
		store.Write{Verb: store.Update, Spec: store.Pods, Object: Pod("a", "old", onNode("n1")), Guard: revision(t, old)},
		store.Write{Verb: store.Delete, Spec: store.Pods, Namespace: "a", Name: "none"},
		store.Write{Verb: store.Check, Spec: store.Pods, Namespace: "a", Name: "old"},
	)
	results := s.Batch(t.Context(), writes)
	for i, want := range map[int]error{500: store.ErrExists, 501: store.ErrNotFound, 502: nil, 503: store.ErrNotFound, 504: store.ErrInvalid} {
		wantError(t, fmt.Sprintf("write %d", i), results[i].Err, want)
	}
	seen := map[string]bool{}
	for i, r := range results[:500] {
		if r.Err != nil || r.Object.GetName() != fmt.Sprintf("pod-%d", i) {
			t.Fatalf("write %d: %v, %v", i, r.Object, r.Err)
		}
		seen[r.Object.GetResourceVersion()] = true
	}
	if len(seen) != 500 {
		t.Errorf("%d resourceVersions for 500 pods", len(seen))
	}
	if got := len(names(t, s, store.ListOptions{})); got != 501 {
		t.Errorf("%d pods, want 501", got)
	}
}

func testTxn(t *testing.T, s *store.Store) {
	namespace, err := s.Table(store.Namespaces).Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	old := mustCreate(t, s, Pod("a", "old"))
	gone := mustCreate(t, s, Pod("a", "gone"))
	check := store.Write{Verb: store.Check, Spec: store.Namespaces, Name: "a", Guard: revision(t, namespace)}
	create := func(name string) store.Write {
		return store.Write{Verb: store.Create, Spec: store.Pods, Object: Pod("a", name)}
	}
	before := s.Revision()
	for _, tt := range []struct {
		fails  store.Write
		expect error
	}{
		{create("old"), store.ErrExists},
		{store.Write{Verb: store.Update, Spec: store.Pods, Object: Pod("a", "old", onNode("n1")), Guard: 1}, store.ErrConflict},
		{store.Write{Verb: store.Delete, Spec: store.Pods, Namespace: "a", Name: "none"}, store.ErrNotFound},
		{store.Write{Verb: store.Check, Spec: store.Namespaces, Name: "none"}, store.ErrNotFound},
		{store.Write{Verb: store.Check, Spec: store.Namespaces, Name: "a", Guard: before + 1}, store.ErrConflict},
	} {
		_, err := s.Txn(t.Context(), []store.Write{check, create("new"), tt.fails})
		wantError(t, "transaction", err, tt.expect)
		var refused *store.TxnError
		if !errors.As(err, &refused) || refused.Write != 2 {
			t.Errorf("transaction: %#v, want a TxnError of write 2", err)
		}
	}
	if got := s.Revision(); got != before {
		t.Fatalf("refused transactions took revisions up to %d, want %d", got, before)
	}
	objects, err := s.Txn(t.Context(), []store.Write{
		check, create("new"),
		{Verb: store.Update, Spec: store.Pods, Object: old, Guard: revision(t, old)},
		{Verb: store.Update, Spec: store.Pods, Object: Pod("a", "old", onNode("n1")), Guard: revision(t, old)},
		{Verb: store.Delete, Spec: store.Pods, Object: gone, Guard: revision(t, gone)},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"", strconv.FormatUint(before+1, 10), old.ResourceVersion, strconv.FormatUint(before+2, 10), strconv.FormatUint(before+3, 10)}
	for i, obj := range objects {
		got := ""
		if obj != nil {
			got = obj.GetResourceVersion()
		}
		if got != want[i] {
			t.Errorf("write %d left resourceVersion %q, want %q", i, got, want[i])
		}
	}
	if got, want := s.Revision(), before+3; got != want {
		t.Errorf("revision %d, want %d: create, update, delete", got, want)
	}
	// Without a revision to demand there is none to return unchanged.
	objects, err = s.Txn(t.Context(), []store.Write{{Verb: store.Update, Spec: store.Pods, Object: objects[3]}})
	if err != nil || objects[0].GetResourceVersion() != strconv.FormatUint(before+4, 10) {
		t.Errorf("update at any revision returns %v, %v, want resourceVersion %d", objects, err, before+4)
	}
	if got := fmt.Sprint(names(t, s, store.ListOptions{})); got != "[a/new a/old]" {
		t.Errorf("pods %s, want [a/new a/old]", got)
	}
}

func testClaims(t *testing.T, s *store.Store) {
	ports := s.Claims("ports")
	if got := ports.Holder("80"); got != "" {
		t.Errorf("%q holds what nobody has taken", got)
	}
	create := func(name string) store.Write {
		return store.Write{Verb: store.Create, Spec: store.Pods, Object: Pod("a", name)}
	}
	if _, err := s.Txn(t.Context(), []store.Write{ports.Take("80", "a/one"), create("one")}); err != nil {
		t.Fatal(err)
	}
	_, err := s.Txn(t.Context(), []store.Write{ports.Take("80", "a/two"), create("two")})
	wantError(t, "taking what is held", err, store.ErrExists)
	if got := fmt.Sprint(names(t, s, store.ListOptions{})); got != "[a/one]" || ports.Holder("80") != "a/one" {
		t.Errorf("pods %s, held by %q; want the first alone", got, ports.Holder("80"))
	}
	if _, ok := ports.Release("80", "a/two"); ok {
		t.Error("what one holds, another could release")
	}
	if _, ok := s.Claims("names").Release("80", "a/one"); ok {
		t.Error("two sets share a name")
	}
	release, ok := ports.Release("80", "a/one")
	if !ok {
		t.Fatal("the holder could not release")
	}
	if _, err := s.Txn(t.Context(), []store.Write{release, create("three")}); err != nil || ports.Holder("80") != "" {
		t.Errorf("%v, held by %q; want it released", err, ports.Holder("80"))
	}
	_, err = s.Txn(t.Context(), []store.Write{release})
	wantError(t, "releasing twice", err, store.ErrNotFound)
}
