package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/store"
)

// Run checks what a store promises, whatever log it writes through. open
// returns a store without objects in it.
func Run(t *testing.T, open func(t *testing.T) *store.Store) {
	for name, test := range map[string]func(*testing.T, *store.Store){
		"create makes an object once":                     testCreate,
		"update demands a revision":                       testUpdate,
		"update that changes nothing writes nothing":      testUpdateOfNothing,
		"delete returns the last state":                   testDelete,
		"objects have one place only":                     testInvalid,
		"pages are of one revision":                       testPages,
		"lists select by labels and fields":               testSelect,
		"watch tells every change once, in order":         testWatch,
		"watch turns updates into what the selector sees": testWatchSelects,
		"a batch answers each write":                      testBatch,
		"a transaction is all or nothing":                 testTxn,
		"system keys are apart":                           testSystem,
		"concurrent updates lose nothing":                 testConcurrentUpdates,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// Pod returns a small pod.
func Pod(namespace, name string, change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID("uid-of-" + name),
			Labels: map[string]string{"app": "web"},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "hello"}}},
	}
	for _, f := range change {
		f(pod)
	}
	return pod
}

func onNode(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeName = node }
}

func labelled(app string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{"app": app} }
}

func pods(s *store.Store) store.Typed[*corev1.Pod] { return store.Of[*corev1.Pod](s, store.Pods) }

func mustCreate(t *testing.T, s *store.Store, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	created, err := pods(s).Create(t.Context(), pod)
	if err != nil {
		t.Fatalf("create %s: %v", pod.Name, err)
	}
	return created
}

func mustUpdate(t *testing.T, s *store.Store, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	updated, err := pods(s).Update(t.Context(), pod, 0)
	if err != nil {
		t.Fatalf("update %s: %v", pod.Name, err)
	}
	return updated
}

func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error %v, want %v", what, got, want)
	}
}

func revision(t *testing.T, obj metav1.Object) uint64 {
	t.Helper()
	r, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		t.Fatalf("resourceVersion of %s: %v", obj.GetName(), err)
	}
	return r
}

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

// names lists and returns the names; options say what and how.
func names(t *testing.T, s *store.Store, opts store.ListOptions) []string {
	t.Helper()
	objects, _, err := pods(s).List(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	list := make([]string, 0, len(objects))
	for _, o := range objects {
		list = append(list, o.Namespace+"/"+o.Name)
	}
	return list
}

// A list in pages goes on while half of what it lists is deleted and more is
// created: it must show the state at its beginning, in order and once.
func testPages(t *testing.T, s *store.Store) {
	var want []string
	for i := range 10 {
		mustCreate(t, s, Pod("a", fmt.Sprintf("pod-%d", i)))
		want = append(want, fmt.Sprintf("a/pod-%d", i))
	}
	mustCreate(t, s, Pod("b", "elsewhere"))
	at := s.Revision()
	var got []string
	opts := store.ListOptions{Namespace: "a", Limit: 3}
	for page := range 4 {
		p, err := s.Table(store.Pods).List(t.Context(), opts)
		if err != nil {
			t.Fatalf("page %d: %v", page, err)
		}
		if p.Revision != at {
			t.Errorf("page %d is of revision %d, want %d", page, p.Revision, at)
		}
		for _, item := range p.Items {
			_, name := store.Pods.SplitKey(item.Key)
			got = append(got, "a/"+name)
		}
		if remaining := int64(10 - len(got)); p.Remaining != remaining || (p.Continue == "") != (remaining == 0) {
			t.Errorf("page %d has %d remaining and continues with %q, want %d", page, p.Remaining, p.Continue, remaining)
		}
		if _, err := s.Table(store.Pods).List(t.Context(), store.ListOptions{Namespace: "b", Continue: p.Continue}); p.Continue != "" {
			wantError(t, "another namespace with this token", err, store.ErrInvalid)
		}
		opts.Continue = p.Continue
		if _, err := pods(s).Delete(t.Context(), "a", fmt.Sprintf("pod-%d", 9-page), 0, ""); err != nil {
			t.Fatal(err)
		}
		mustCreate(t, s, Pod("a", fmt.Sprintf("pod-5-%d", page)))
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages of %v, want %v", got, want)
	}
	_, err := s.Table(store.Pods).List(t.Context(), store.ListOptions{Continue: "no token"})
	wantError(t, "a token that is none", err, store.ErrInvalid)
	_, err = s.Table(store.Pods).List(t.Context(), store.ListOptions{Revision: at - 1})
	wantError(t, "a revision that nobody kept", err, store.ErrExpired)
}

func testSelect(t *testing.T, s *store.Store) {
	mustCreate(t, s, Pod("a", "one", labelled("web"), onNode("n1")))
	mustCreate(t, s, Pod("a", "two", labelled("db"), onNode("n2")))
	mustCreate(t, s, Pod("b", "one", labelled("web")))
	mustCreate(t, s, Pod("ab", "one", func(p *corev1.Pod) { p.Labels = nil }))
	for _, tt := range []struct {
		namespace, labels, fields string
		want                      string
	}{
		{"", "", "", "[a/one a/two ab/one b/one]"},
		{"a", "", "", "[a/one a/two]"},
		{"c", "", "", "[]"},
		{"", "app=web", "", "[a/one b/one]"},
		{"", "app!=web", "", "[a/two ab/one]"},
		{"", "app", "", "[a/one a/two b/one]"},
		{"", "!app", "", "[ab/one]"},
		{"", "app in (db,web)", "spec.nodeName=n2", "[a/two]"},
		{"", "", "spec.nodeName=n1", "[a/one]"},
		{"", "", "spec.nodeName=", "[ab/one b/one]"},
		{"", "", "spec.nodeName!=", "[a/one a/two]"},
		{"", "", "spec.nodeName!=n1", "[a/two ab/one b/one]"},
		{"", "", "metadata.name=one", "[a/one ab/one b/one]"},
		{"a", "", "metadata.name=one", "[a/one]"},
		{"a", "app=db", "metadata.name=one", "[]"},
		{"a", "", "metadata.name=on", "[]"},
		{"", "", "metadata.name=one,metadata.namespace=b", "[b/one]"},
		{"a", "", "metadata.namespace=b", "[]"},
		{"", "", "metadata.namespace!=a", "[ab/one b/one]"},
		{"a", "", "metadata.name=one,metadata.name=two", "[]"},
	} {
		byLabels, err := labels.Parse(tt.labels)
		if err != nil {
			t.Fatal(err)
		}
		byFields, err := fields.ParseSelector(tt.fields)
		if err != nil {
			t.Fatal(err)
		}
		opts := store.ListOptions{Namespace: tt.namespace, Labels: byLabels, Fields: byFields}
		if got := fmt.Sprint(names(t, s, opts)); got != tt.want {
			t.Errorf("namespace %q, labels %q, fields %q: %s, want %s", tt.namespace, tt.labels, tt.fields, got, tt.want)
		}
		// The same one by one: a page is full of what is selected.
		opts.Limit = 1
		got := []string{}
		for {
			page, err := s.Table(store.Pods).List(t.Context(), opts)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range page.Items {
				namespace, name := store.Pods.SplitKey(item.Key)
				got = append(got, namespace+"/"+name)
			}
			if len(page.Items) != 1 && tt.want != "[]" {
				t.Fatalf("namespace %q, labels %q, fields %q: a page of %d, want 1", tt.namespace, tt.labels, tt.fields, len(page.Items))
			}
			if page.Remaining != 0 && tt.labels+tt.fields != "" {
				t.Errorf("namespace %q, labels %q, fields %q: %d remain, want nobody to have counted", tt.namespace, tt.labels, tt.fields, page.Remaining)
			}
			if opts.Continue = page.Continue; opts.Continue == "" {
				break
			}
		}
		if fmt.Sprint(got) != tt.want {
			t.Errorf("namespace %q, labels %q, fields %q in pages: %s, want %s", tt.namespace, tt.labels, tt.fields, got, tt.want)
		}
	}
}

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
	want := []string{"", strconv.FormatUint(before+1, 10), old.ResourceVersion, strconv.FormatUint(before+2, 10), ""}
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
	if _, err := system.Create(t.Context(), "settings", nil); err != nil {
		t.Fatal(err)
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

// Many writers count up one annotation each from what they read. With guards,
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
