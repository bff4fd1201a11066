package agent

import (
	"errors"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/agent/pod"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// After a reboot without a control plane containers are started as before: what
// was told of services is still known, until a session says otherwise.
func TestServicesAreKnownToTheNextAgent(t *testing.T) {
	dir := t.TempDir()
	begin := func() *contents {
		c := newContents(dir, slog.New(slog.DiscardHandler))
		c.begin()
		return c
	}
	tell := func(c *contents, namespace, name string, services ...string) {
		t.Helper()
		var list corev1.ServiceList
		for _, s := range services {
			list.Items = append(list.Items, corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: s}})
		}
		body, err := list.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		c.take(&agentv1.Content{Kind: agentv1.Content_SERVICES, Namespace: namespace, Name: name, Object: body})
	}
	count := func(c *contents, namespace string, links bool, want int) {
		t.Helper()
		got, err := c.Services(namespace, links)
		if want < 0 && !errors.Is(err, pod.ErrNotTold) || want >= 0 && (err != nil || len(got) != want) {
			t.Errorf("%d services in %s (links %t), %v; want %d", len(got), namespace, links, err, want)
		}
	}
	first := begin()
	count(first, "team", false, -1)
	tell(first, "default", "kubernetes", "kubernetes")
	tell(first, "team", "", "a", "b")
	tell(first, "gone", "", "c")
	tell(first, "empty", "")
	first.take(&agentv1.Content{Kind: agentv1.Content_SERVICES, Namespace: "gone", Dropped: true})

	second := begin()
	count(second, "team", true, 3)
	count(second, "team", false, 1)
	count(second, "empty", true, 1)
	count(second, "gone", true, -1)
	count(second, "default", true, -1) // nobody asked for all of that namespace
	tell(second, "default", "kubernetes", "kubernetes")
	second.sync()
	count(second, "team", true, 1) // the session told all that there is
	count(begin(), "team", true, -1)

	old := newContents(t.TempDir(), slog.New(slog.DiscardHandler))
	old.begin()
	count(old, "team", true, -1)
	old.sync() // of a control node that does not tell of services
	count(old, "team", true, 0)
}
