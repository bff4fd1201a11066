package apiserver

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"

	"github.com/musterhq/muster/control/reach"
)

// proxyPod serves pods/proxy: a request to a port of a pod. The pod is found by
// its name and reached through its agent: the address in its status, which who
// may write it could point elsewhere, leads nobody anywhere.
func (s *Server) proxyPod(w http.ResponseWriter, r *http.Request, c *call) error {
	scheme, name, port, valid := utilnet.SplitSchemeNamePort(c.name)
	if !valid {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", c.name))
	}
	if err := s.admitProxy(r, c); err != nil {
		return err
	}
	named := *c
	named.name = name
	pod, err := s.pod(r.Context(), &named)
	if err != nil {
		return err
	}
	if ip, err := netip.ParseAddr(podIP(pod)); err != nil || !ip.Unmap().IsGlobalUnicast() {
		return apierrors.NewBadRequest("address not allowed")
	}
	number, err := portOf(pod, port, scheme)
	if err != nil {
		return err
	}
	host := net.JoinHostPort(podIP(pod), strconv.Itoa(int(number)))
	return s.proxy(w, r, c, scheme, host, func(ctx context.Context) (net.Conn, error) { return s.dialer.Pod(ctx, pod, number) })
}

// admitProxy asks admission whether the request may be passed on.
func (s *Server) admitProxy(r *http.Request, c *call) error {
	path := c.rest
	if unescaped, err := url.PathUnescape(c.rest); err == nil {
		path = unescaped
	}
	switch c.resource {
	case "pods":
		return s.connect(r, c, &corev1.PodProxyOptions{Path: path})
	case "services":
		return s.connect(r, c, &corev1.ServiceProxyOptions{Path: path})
	}
	return s.connect(r, c, &corev1.NodeProxyOptions{Path: path})
}

func podIP(pod *corev1.Pod) string {
	if len(pod.Status.PodIPs) > 0 {
		return pod.Status.PodIPs[0].IP
	}
	return pod.Status.PodIP
}

// portOf is the port that a request names, or the first that the pod names.
func portOf(pod *corev1.Pod, named, scheme string) (int32, error) {
	if named == "" {
		for _, container := range pod.Spec.Containers {
			if len(container.Ports) > 0 {
				return container.Ports[0].ContainerPort, nil
			}
		}
		if scheme == "https" {
			return 443, nil
		}
		return 80, nil
	}
	number, err := strconv.ParseUint(named, 10, 16)
	if err != nil || number == 0 {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid port %q", named))
	}
	return int32(number), nil
}

// proxyService serves services/proxy: a request to one of a service's endpoints.
// Only pods are reached: an endpoint's address is what a user says it is.
func (s *Server) proxyService(w http.ResponseWriter, r *http.Request, c *call) error {
	scheme, name, port, valid := utilnet.SplitSchemeNamePort(c.name)
	if !valid {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", c.name))
	}
	if err := s.admitProxy(r, c); err != nil {
		return err
	}
	if err := s.barrier(r.Context()); err != nil {
		return err
	}
	endpoint, err := s.dialer.Endpoint(r.Context(), c.namespace, name, port)
	_, numberErr := strconv.Atoi(port)
	switch {
	case errors.Is(err, reach.ErrNoService) && numberErr == nil:
		// Upstream looks a service up only to find a number's name.
		return apierrors.NewNotFound(c.kind.Qualified(), name)
	case errors.Is(err, reach.ErrNoPort):
		return apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %s found for service %q", port, name))
	case errors.Is(err, reach.ErrNoService), errors.Is(err, reach.ErrNoEndpoints), err == nil && endpoint.Pod == nil:
		return apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", name))
	case err != nil:
		return err
	}
	host := net.JoinHostPort(podIP(endpoint.Pod), strconv.Itoa(int(endpoint.Port)))
	return s.proxy(w, r, c, scheme, host, func(ctx context.Context) (net.Conn, error) {
		return s.dialer.Pod(ctx, endpoint.Pod, endpoint.Port)
	})
}

// proxy passes a request on to host, over a connection of its own that dial
// makes, and the answer back, with links in pages and redirects pointing through
// the proxy again.
func (s *Server) proxy(w http.ResponseWriter, r *http.Request, c *call, scheme, host string, dial func(context.Context) (net.Conn, error)) error {
	path, err := url.PathUnescape(c.rest)
	if err != nil {
		return badRequest(err)
	}
	location := &url.URL{Scheme: cmp.Or(scheme, "http"), Host: host, Path: path, RawPath: c.rest}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		// What runs in pods has certificates of its own; the way there is the
		// cluster's.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		// A connection that is left over could serve another user's request to
		// another pod that has the address by then.
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: proxyHeaderMax,
	}
	defer transport.CloseIdleConnections()
	handler := proxy.NewUpgradeAwareHandler(location, transport, true, false, proxyFailure{s})
	handler.ServeHTTP(w, withoutCredentials(r))
	return nil
}

// proxyHeaderMax bounds the header of an answer.
const proxyHeaderMax = 1 << 20

// proxyFailure answers when there was no answer to pass on.
type proxyFailure struct{ server *Server }

func (p proxyFailure) Error(w http.ResponseWriter, r *http.Request, err error) {
	var api apierrors.APIStatus
	if !errors.As(err, &api) {
		err = apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err))
	}
	p.server.fail(w, r, err)
}

// withoutCredentials is a request as somebody else may see it: what it says about
// who sends it is meant for this server alone.
func withoutCredentials(r *http.Request) *http.Request {
	r = r.Clone(r.Context())
	for name := range r.Header {
		if name == "Authorization" || strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") {
			r.Header.Del(name)
		}
	}
	return r
}

// proxyNode serves nodes/proxy. Nothing connects to an agent, which has no HTTP
// server either; what of a kubelet's the control plane knows is answered here.
func (s *Server) proxyNode(w http.ResponseWriter, r *http.Request, c *call) error {
	_, name, port, valid := utilnet.SplitSchemeNamePort(c.name)
	if !valid {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", c.name))
	}
	if err := s.admitProxy(r, c); err != nil {
		return err
	}
	named := *c
	named.name = name
	if _, err := s.newest(r.Context(), &named); err != nil {
		return err
	}
	if port != "" && port != kubeletPort {
		return statusError(http.StatusNotImplemented, "NotImplemented", "nothing connects to a node: only what its agent offers can be read, without a port or at "+kubeletPort)
	}
	serve := nodePaths[strings.TrimSuffix(firstSegment(c.rest), "/")]
	if serve == nil {
		return statusError(http.StatusNotFound, "NotFound", "the node's agent offers no "+c.rest)
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return apierrors.NewMethodNotSupported(schema.GroupResource{Resource: "nodes/proxy"}, c.verb)
	}
	return serve(s, w, r, &named)
}

// kubeletPort is where clients look for a node's agent.
const kubeletPort = "10250"

func firstSegment(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return first
}
