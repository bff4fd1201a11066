package apiserver

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/musterhq/muster/control/resource"
)

// Whoever opens a stream may do what they like at its other end: hooks must be
// able to refuse it before there is one.
func TestAdmissionIsAskedAboutStreams(t *testing.T) {
	var asked []string
	f := newFixture(t, func(cfg *Config) {
		cfg.Registry = resource.New(cfg.Store, refusing{&asked})
	})
	f.bound("web", "n1")
	for _, c := range []struct{ path, want string }{
		{"pods/web/exec?command=sh&stdout=1", "pods/exec web PodExecOptions"},
		{"pods/web/attach?stdout=1", "pods/attach web PodAttachOptions"},
		{"pods/web/portforward?ports=80", "pods/portforward web PodPortForwardOptions"},
		{"pods/http:web:80/proxy/a/b", "pods/proxy http:web:80 PodProxyOptions"},
	} {
		asked = nil
		got := doHTTP1(t, f, "POST", "/api/v1/namespaces/default/"+c.path, "Connection", "Upgrade", "Upgrade", "SPDY/3.1")
		if got.code != 403 || len(asked) != 1 || asked[0] != c.want {
			t.Errorf("%s: %d, admission was asked about %q; want 403 and %q", c.path, got.code, asked, c.want)
		}
	}
}

// refusing refuses all streams and says what it was asked.
type refusing struct{ asked *[]string }

func (r refusing) Admit(_ context.Context, a *resource.Attributes) error {
	if a.Operation != resource.Connect {
		return nil
	}
	*r.asked = append(*r.asked, fmt.Sprintf("%s/%s %s %s", a.Kind.Spec.Resource, a.Subresource, a.Name, a.GroupVersionKind().Kind))
	return a.Forbidden(errors.New("no streams"))
}

func (refusing) Validate(context.Context, *resource.Attributes) error { return nil }
