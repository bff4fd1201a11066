package storetest

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/musterhq/muster/control/store"
)

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
	earlier, err := s.Table(store.Pods).List(t.Context(), store.ListOptions{Namespace: "a", Revision: at - 2})
	if err != nil || earlier.Revision != at-2 || len(earlier.Items) != 9 {
		t.Errorf("a list at an earlier revision has %d pods at %d, %v, want 9 at %d", len(earlier.Items), earlier.Revision, err, at-2)
	}
	_, err = s.Table(store.Pods).List(t.Context(), store.ListOptions{Revision: s.Revision() + 1})
	wantError(t, "a revision that is yet to come", err, store.ErrExpired)
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
