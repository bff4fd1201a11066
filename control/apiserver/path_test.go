package apiserver

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

func TestParsePathReadsTheResourceGrammar(t *testing.T) {
	for _, c := range []struct {
		method, path string
		want         target
		err          error
	}{
		{"GET", "/api/v1/pods", target{verb: "list", version: "v1", resource: "pods"}, nil},
		{"GET", "/api/v1/pods/", target{verb: "list", version: "v1", resource: "pods"}, nil},
		{"GET", "/api/v1/nodes/n1", target{verb: "get", version: "v1", resource: "nodes", name: "n1"}, nil},
		{"PATCH", "/api/v1/nodes/n1/status", target{verb: "patch", version: "v1", resource: "nodes", name: "n1", subresource: "status"}, nil},
		{"POST", "/api/v1/namespaces", target{verb: "create", version: "v1", resource: "namespaces"}, nil},
		{"GET", "/api/v1/namespaces/a", target{verb: "get", version: "v1", namespace: "a", resource: "namespaces", name: "a"}, nil},
		{"PUT", "/api/v1/namespaces/a/finalize", target{verb: "update", version: "v1", namespace: "a", resource: "namespaces", name: "a", subresource: "finalize"}, nil},
		{"PUT", "/api/v1/namespaces/a/status", target{verb: "update", version: "v1", namespace: "a", resource: "namespaces", name: "a", subresource: "status"}, nil},
		{"POST", "/api/v1/namespaces/a/pods", target{verb: "create", version: "v1", namespace: "a", resource: "pods"}, nil},
		{"DELETE", "/api/v1/namespaces/a/pods", target{verb: "deletecollection", version: "v1", namespace: "a", resource: "pods"}, nil},
		{"DELETE", "/api/v1/namespaces/a/pods/p", target{verb: "delete", version: "v1", namespace: "a", resource: "pods", name: "p"}, nil},
		{"POST", "/api/v1/namespaces/a/pods/p/exec", target{verb: "create", version: "v1", namespace: "a", resource: "pods", name: "p", subresource: "exec"}, nil},
		{"GET", "/api/v1/namespaces/a/pods/p/proxy", target{verb: "get", version: "v1", namespace: "a", resource: "pods", name: "p", subresource: "proxy"}, nil},
		{"GET", "/api/v1/namespaces/a/pods/p/proxy/", target{verb: "get", version: "v1", namespace: "a", resource: "pods", name: "p", subresource: "proxy", rest: "/"}, nil},
		{"POST", "/api/v1/namespaces/a/services/https:s:web/proxy/x//../%2Fy%00/", target{verb: "create", version: "v1", namespace: "a", resource: "services", name: "https:s:web", subresource: "proxy", rest: "/x//../%2Fy%00/"}, nil},
		{"GET", "/api/v1/nodes/n1:10250/proxy/pods", target{verb: "get", version: "v1", resource: "nodes", name: "n1:10250", subresource: "proxy", rest: "/pods"}, nil},
		{"GET", "/api/v1/namespaces/a/pods/../proxy/x", target{}, errBadPath},
		{"GET", "/api/v1/namespaces/a/pods/proxy", target{verb: "get", version: "v1", namespace: "a", resource: "pods", name: "proxy"}, nil},
		{"GET", "/api/v1/namespaces/proxy/pods/p", target{verb: "get", version: "v1", namespace: "proxy", resource: "pods", name: "p"}, nil},
		{"GET", "/apis/apps/v1/namespaces/a/deployments/d/proxy/../x", target{}, errBadPath},
		{"GET", "/apis/apps/v1/namespaces/a/deployments/d/scale", target{verb: "get", group: "apps", version: "v1", namespace: "a", resource: "deployments", name: "d", subresource: "scale"}, nil},
		{"GET", "/api/v1/namespaces/a/events/p.17f%20x", target{verb: "get", version: "v1", namespace: "a", resource: "events", name: "p.17f x"}, nil},
		{"GET", "/api/v1/watch/pods", target{verb: "watch", version: "v1", resource: "pods"}, nil},
		{"GET", "/api/v1/watch/namespaces/a/pods/p", target{verb: "watch", version: "v1", namespace: "a", resource: "pods", name: "p"}, nil},
		{"GET", "/apis/apps/v1/watch/deployments", target{verb: "watch", group: "apps", version: "v1", resource: "deployments"}, nil},
		{"DELETE", "/api/v1/watch/pods", target{version: "v1", resource: "pods"}, nil},
		{"GET", "/api", target{}, errNoResource},
		{"GET", "/api/v1", target{}, errNoResource},
		{"GET", "/apis/apps/v1", target{}, errNoResource},
		{"GET", "/api/v1/namespaces/a/pods/b%2Fc", target{}, errBadPath},
		{"GET", "/api/v1/namespaces/../nodes", target{}, errBadPath},
		{"GET", "/api/v1/namespaces/%2e%2e/nodes", target{}, errBadPath},
		{"GET", "/api/v1//pods", target{}, errBadPath},
		{"GET", "/api/v1/namespaces/a/pods/50%25", target{}, errBadPath},
	} {
		got, err := parsePath(c.method, c.path)
		if !errors.Is(err, c.err) || err == nil && got != c.want {
			t.Errorf("%s %s: got %+v, %v, want %+v, %v", c.method, c.path, got, err, c.want, c.err)
		}
	}
}

// Whatever is sent, no part of what a path names may reach into another key.
func FuzzParsePath(f *testing.F) {
	for _, seed := range []string{"/api/v1/pods", "/apis/a/b/namespaces/c/d/e/f", "/api/v1/namespaces/..%2f/x", "//", "", "/api/v1/%00/%zz"} {
		f.Add("GET", seed)
	}
	f.Fuzz(func(t *testing.T, method, path string) {
		got, err := parsePath(method, path)
		if err != nil {
			return
		}
		for _, part := range []string{got.group, got.version, got.namespace, got.resource, got.name} {
			if part == "." || part == ".." || strings.ContainsAny(part, "/%") {
				t.Errorf("%q: part %q", path, part)
			}
		}
		if got.resource == "" {
			t.Errorf("%q: no resource and no error", path)
		}
		if _, err := url.PathUnescape(path); err != nil {
			t.Errorf("%q: accepted, but cannot be unescaped", path)
		}
	})
}
