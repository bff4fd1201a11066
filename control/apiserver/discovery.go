package apiserver

import (
	"cmp"
	"crypto/sha512"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	discoveryv2beta1 "k8s.io/api/apidiscovery/v2beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiversion "k8s.io/apimachinery/pkg/version"

	"github.com/musterhq/muster/control/resource"
)

const asDiscovery = "APIGroupDiscoveryList"

// discovery is what is served, in the forms in which clients ask for it. It is
// made from one catalog of the registry.
type discovery struct {
	catalog *resource.Catalog
	// resources of each group version, in the order of the registry.
	resources map[schema.GroupVersion][]metav1.APIResource
	groups    []metav1.APIGroup // without the core group
	// stale are the versions that whoever serves them did not answer for.
	stale map[schema.GroupVersion]bool
}

// discovered is discovery as of now, of what is served here and by services.
func (s *Server) discovered() *discovery {
	if s.aggregate == nil {
		return s.servedHere()
	}
	return s.servedHere().with(s.aggregate.Discovered(), s.aggregate.Order)
}

// servedHere is made anew when kinds have come or gone.
func (s *Server) servedHere() *discovery {
	catalog := s.registry.Catalog()
	if d := s.discovery.Load(); d.catalog == catalog {
		return d
	}
	// Two at a time may make the same one.
	d := newDiscovery(catalog)
	s.discovery.Store(d)
	return d
}

func newDiscovery(catalog *resource.Catalog) *discovery {
	d := &discovery{catalog: catalog, resources: map[schema.GroupVersion][]metav1.APIResource{}}
	for _, kind := range catalog.Served() {
		gv := kind.Spec.Kind.GroupVersion()
		d.resources[gv] = append(d.resources[gv], kind.APIResources()...)
	}
	for _, virtual := range resource.Virtuals() {
		gv := virtual.Resource.GroupVersion()
		d.resources[gv] = append(d.resources[gv], virtual.APIResource())
	}
	core := schema.GroupVersion{Version: "v1"}
	for name, connection := range connections {
		resource, _, _ := strings.Cut(name, "/")
		kind := catalog.Kind(schema.GroupResource{Resource: resource})
		if kind == nil || slices.ContainsFunc(d.resources[core], func(r metav1.APIResource) bool { return r.Name == name }) {
			continue
		}
		verbs := metav1.Verbs{"create", "get"}
		if connection.proxies {
			verbs = metav1.Verbs{"create", "delete", "get", "patch", "update"}
		}
		d.resources[core] = append(d.resources[core], metav1.APIResource{
			Name: name, Namespaced: kind.Namespaced(), Kind: connection.kind, Verbs: verbs,
		})
	}
	for _, list := range d.resources {
		slices.SortFunc(list, func(a, b metav1.APIResource) int { return cmp.Compare(a.Name, b.Name) })
	}
	d.list(func([]schema.GroupVersion) {})
	return d
}

// list fills in the groups: by name, and their versions the most stable and
// newest first, unless order says otherwise.
func (d *discovery) list(order func([]schema.GroupVersion)) {
	var versions []schema.GroupVersion
	for gv := range d.resources {
		if gv.Group != "" {
			versions = append(versions, gv)
		}
	}
	slices.SortFunc(versions, func(a, b schema.GroupVersion) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), -apiversion.CompareKubeAwareVersionStrings(a.Version, b.Version))
	})
	order(versions)
	for _, gv := range versions {
		version := metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version}
		at := slices.IndexFunc(d.groups, func(g metav1.APIGroup) bool { return g.Name == gv.Group })
		if at < 0 {
			// The first is the one that clients prefer.
			d.groups = append(d.groups, metav1.APIGroup{Name: gv.Group, PreferredVersion: version})
			at = len(d.groups) - 1
		}
		d.groups[at].Versions = append(d.groups[at].Versions, version)
	}
}

// serveDiscovery answers /api, /apis and the paths below that name a group or a
// version.
func (s *Server) serveDiscovery(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimSuffix(r.URL.Path, "/")
	if s.passDiscovery(w, r, path) {
		return
	}
	w.Header().Set("Vary", "Accept")
	if path == "/api" || path == "/apis" {
		if out, ok := negotiateDiscovery(r); ok {
			s.sendDiscovery(w, r, s.discovered().aggregated(path == "/api", out.meta.Version), asDiscovery, out)
			return
		}
	}
	out, err := negotiate(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	obj, kind := s.discovered().plain(path, r.Host)
	if obj == nil {
		s.fail(w, r, errPathNotFound)
		return
	}
	out.meta = schema.GroupVersion{Version: "v1"}
	s.sendDiscovery(w, r, obj, kind, out)
}

// negotiateDiscovery is whether, and in which version, the client prefers the
// aggregated form.
func negotiateDiscovery(r *http.Request) (output, bool) {
	out, err := negotiateFor(r, func(out output) bool {
		return out.as == "" || out.as == asDiscovery && out.meta.Group == discoveryv2.GroupName && (out.meta.Version == "v2" || out.meta.Version == "v2beta1")
	})
	return out, err == nil && out.as == asDiscovery
}

func (s *Server) sendDiscovery(w http.ResponseWriter, r *http.Request, obj runtime.Object, kind string, out output) {
	contentType := out.media
	if kind == asDiscovery {
		contentType += ";g=" + out.meta.Group + ";v=" + out.meta.Version + ";as=" + kind
	}
	body, err := encodeAs(obj, out.meta.WithKind(kind), out)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	etag := strconv.Quote(fmt.Sprintf("%X", sha512.Sum512(body)))
	w.Header().Set("Etag", etag)
	w.Header().Set("Cache-Control", "public")
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	s.write(w, r, http.StatusOK, contentType, body)
}

// plain is the old form: a document for each path.
func (d *discovery) plain(path, host string) (runtime.Object, string) {
	switch path {
	case "/api":
		return &metav1.APIVersions{
			Versions:                   []string{"v1"},
			ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: host}},
		}, "APIVersions"
	case "/apis":
		return &metav1.APIGroupList{Groups: slices.Clone(d.groups)}, "APIGroupList"
	}
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	var gv schema.GroupVersion
	switch {
	case parts[0] == "api" && len(parts) == 2:
		gv = schema.GroupVersion{Version: parts[1]}
	case parts[0] == "apis" && len(parts) == 3:
		gv = schema.GroupVersion{Group: parts[1], Version: parts[2]}
	case parts[0] == "apis" && len(parts) == 2:
		for _, group := range d.groups {
			if group.Name == parts[1] {
				return group.DeepCopy(), "APIGroup"
			}
		}
		return nil, ""
	}
	if list, ok := d.resources[gv]; ok {
		return &metav1.APIResourceList{GroupVersion: gv.String(), APIResources: list}, "APIResourceList"
	}
	return nil, ""
}

// aggregated is the new form: everything in one document.
func (d *discovery) aggregated(core bool, version string) runtime.Object {
	list := &discoveryv2.APIGroupDiscoveryList{Items: []discoveryv2.APIGroupDiscovery{}}
	if core {
		list.Items = append(list.Items, d.aggregatedGroup(metav1.APIGroup{Versions: []metav1.GroupVersionForDiscovery{{GroupVersion: "v1", Version: "v1"}}}))
	} else {
		for _, group := range d.groups {
			list.Items = append(list.Items, d.aggregatedGroup(group))
		}
	}
	if version == "v2" {
		return list
	}
	return asV2beta1(list)
}

func (d *discovery) aggregatedGroup(group metav1.APIGroup) discoveryv2.APIGroupDiscovery {
	out := discoveryv2.APIGroupDiscovery{}
	out.Name = group.Name
	for _, v := range group.Versions {
		gv := schema.GroupVersion{Group: group.Name, Version: v.Version}
		version := discoveryv2.APIVersionDiscovery{Version: v.Version, Freshness: discoveryv2.DiscoveryFreshnessCurrent}
		if d.stale[gv] {
			version.Freshness = discoveryv2.DiscoveryFreshnessStale
		}
		at := map[string]int{}
		for _, r := range d.resources[gv] {
			responseKind := &metav1.GroupVersionKind{Group: cmp.Or(r.Group, gv.Group), Version: cmp.Or(r.Version, gv.Version), Kind: r.Kind}
			name, sub, isSub := strings.Cut(r.Name, "/")
			if isSub {
				// The list is sorted: the resource itself came before.
				if i, ok := at[name]; ok {
					version.Resources[i].Subresources = append(version.Resources[i].Subresources, discoveryv2.APISubresourceDiscovery{
						Subresource: sub, ResponseKind: responseKind, Verbs: r.Verbs,
					})
				}
				continue
			}
			scope := discoveryv2.ScopeCluster
			if r.Namespaced {
				scope = discoveryv2.ScopeNamespace
			}
			at[name] = len(version.Resources)
			version.Resources = append(version.Resources, discoveryv2.APIResourceDiscovery{
				Resource: name, ResponseKind: responseKind, Scope: scope, SingularResource: r.SingularName,
				Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
			})
		}
		out.Versions = append(out.Versions, version)
	}
	return out
}

// asV2beta1 is for clients from before version 2, which differs in nothing.
func asV2beta1(list *discoveryv2.APIGroupDiscoveryList) *discoveryv2beta1.APIGroupDiscoveryList {
	old := &discoveryv2beta1.APIGroupDiscoveryList{Items: []discoveryv2beta1.APIGroupDiscovery{}}
	for _, group := range list.Items {
		g := discoveryv2beta1.APIGroupDiscovery{ObjectMeta: group.ObjectMeta}
		for _, version := range group.Versions {
			v := discoveryv2beta1.APIVersionDiscovery{Version: version.Version, Freshness: discoveryv2beta1.DiscoveryFreshness(version.Freshness)}
			for _, r := range version.Resources {
				res := discoveryv2beta1.APIResourceDiscovery{
					Resource: r.Resource, ResponseKind: r.ResponseKind, Scope: discoveryv2beta1.ResourceScope(r.Scope),
					SingularResource: r.SingularResource, Verbs: r.Verbs, ShortNames: r.ShortNames, Categories: r.Categories,
				}
				for _, sub := range r.Subresources {
					res.Subresources = append(res.Subresources, discoveryv2beta1.APISubresourceDiscovery{
						Subresource: sub.Subresource, ResponseKind: sub.ResponseKind, AcceptedTypes: sub.AcceptedTypes, Verbs: sub.Verbs,
					})
				}
				v.Resources = append(v.Resources, res)
			}
			g.Versions = append(g.Versions, v)
		}
		old.Items = append(old.Items, g)
	}
	return old
}
