package apiserver

import (
	"cmp"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/musterhq/muster/control/aggregate"
)

// aggregated is who serves a version of a group that is not served here, or nil.
func (s *Server) aggregated(group, version string) *apiregistrationv1.APIService {
	if s.aggregate == nil {
		return nil
	}
	return s.aggregate.Service(group, version)
}

// passOn has a service answer a request that was authorized here.
func (s *Server) passOn(w http.ResponseWriter, r *http.Request, who user.Info, t target, service *apiregistrationv1.APIService, seen *observed) error {
	// What the service calls its resources is no label for metrics here.
	seen.target, seen.verb = target{group: t.group, version: t.version}, metricVerb(r.Method, t)
	seen.long = t.verb == "watch" || r.Header.Get("Upgrade") != "" || t.subresource == "proxy" || t.subresource == "log"
	return s.bounded(w, r, t, seen, func(r *http.Request) error {
		s.aggregate.Pass(w, withoutCredentials(r), service, who, s.failPassed)
		return nil
	})
}

// failPassed answers when a service did not.
func (s *Server) failPassed(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, aggregate.ErrUnavailable) {
		err = apierrors.NewServiceUnavailable(err.Error())
	}
	s.fail(w, r, err)
}

// passDiscovery has a service say itself what it serves, if path is that of its
// version of a group.
func (s *Server) passDiscovery(w http.ResponseWriter, r *http.Request, path string) bool {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	if len(parts) != 3 || parts[0] != "apis" {
		return false
	}
	service := s.aggregated(parts[1], parts[2])
	who, known := genericrequest.UserFrom(r.Context())
	if service == nil || !known {
		return false
	}
	r, cancel := s.withTimeout(r)
	defer cancel()
	s.aggregate.Pass(w, withoutCredentials(r), service, who, s.failPassed)
	return true
}

// with adds what services offer and puts groups in the order that APIServices
// ask for. A version that is served here is not theirs.
func (d *discovery) with(offers []aggregate.Discovered, order func([]schema.GroupVersion)) *discovery {
	merged := &discovery{resources: maps.Clone(d.resources), stale: map[schema.GroupVersion]bool{}}
	for _, offer := range offers {
		if _, here := d.resources[offer.GroupVersion]; here {
			continue
		}
		list := slices.Clone(offer.Resources)
		// Subresources come behind what they belong to.
		slices.SortFunc(list, func(a, b metav1.APIResource) int { return cmp.Compare(a.Name, b.Name) })
		merged.resources[offer.GroupVersion], merged.stale[offer.GroupVersion] = list, offer.Stale
	}
	merged.list(order)
	return merged
}
