// Package aggregate is API groups that a service in the cluster serves, such as
// metrics.k8s.io: which there are (APIService objects), requests passed on to
// them in the name of who sent them, and what they offer. Who may send what is
// the API server's business, and comes first.
package aggregate

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/musterhq/muster/control/store"
)

// ErrUnavailable is the answer for a service that does not answer.
var ErrUnavailable = errors.New("service unavailable")

// Config is what a Proxy needs.
type Config struct {
	Store *store.Store
	// Dial connects with a port of a service.
	Dial func(ctx context.Context, namespace, service string, port int32) (net.Conn, error)
	// Client is what services are shown, which believe who a request is said to
	// be from.
	Client tls.Certificate
	Logger *slog.Logger
}

// Proxy passes requests on. It knows nothing before Run.
type Proxy struct {
	cfg      Config
	services *store.Cache[*apiregistrationv1.APIService]
	changed  chan struct{} // holds one: look again at what there is

	mu         sync.Mutex
	transports map[string]*transport // by the APIService's name
	offers     map[string]Discovered // likewise
}

// New returns a proxy.
func New(cfg Config) *Proxy {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{
		cfg: cfg, services: store.NewCache[*apiregistrationv1.APIService](cfg.Store, store.APIServices, nil),
		changed:    make(chan struct{}, 1),
		transports: map[string]*transport{}, offers: map[string]Discovered{},
	}
	p.services.OnChange(func(old, now *apiregistrationv1.APIService) {
		if isRemote(old) || isRemote(now) {
			p.look()
		}
	})
	return p
}

func isRemote(s *apiregistrationv1.APIService) bool { return s != nil && s.Spec.Service != nil }

// Run follows APIServices, and asks the services what they offer, until ctx ends.
func (p *Proxy) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.services.Run(ctx) })
	group.Go(func() error { return p.discover(ctx) })
	err := group.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.transports {
		t.http.CloseIdleConnections()
	}
	return err
}

// Service is the APIService of a version of a group that a service serves, or
// nil. It must not be changed.
func (p *Proxy) Service(group, version string) *apiregistrationv1.APIService {
	if s, ok := p.services.Get("", version+"."+group); ok && isRemote(s) {
		return s
	}
	return nil
}

// Order sorts versions of groups as discovery lists them: clients that know a
// resource by its bare name take the first group that has it.
func (p *Proxy) Order(versions []schema.GroupVersion) {
	groups := map[string]int32{}
	within := map[schema.GroupVersion]int32{}
	for _, s := range p.services.List() {
		groups[s.Spec.Group] = max(groups[s.Spec.Group], s.Spec.GroupPriorityMinimum)
		within[schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}] = s.Spec.VersionPriority
	}
	slices.SortStableFunc(versions, func(a, b schema.GroupVersion) int {
		return cmp.Or(
			cmp.Compare(groups[b.Group], groups[a.Group]), cmp.Compare(a.Group, b.Group),
			cmp.Compare(within[b], within[a]),
		)
	})
}

// Probe asks a service for what it must serve, as its controller does to say
// whether it is available.
func (p *Proxy) Probe(ctx context.Context, s *apiregistrationv1.APIService) error {
	_, err := p.ask(ctx, s)
	return err
}

// Available says whether a service was found to answer.
func Available(s *apiregistrationv1.APIService) bool {
	for _, c := range s.Status.Conditions {
		if c.Type == apiregistrationv1.Available {
			return c.Status == apiregistrationv1.ConditionTrue
		}
	}
	return false
}

// transport is how one service is reached, as long as its APIService says the same.
type transport struct {
	spec string
	http *http.Transport
}

// transport gives the connections to a service. They are kept: who a request is
// from is said with each.
func (p *Proxy) transport(s *apiregistrationv1.APIService) (*http.Transport, error) {
	service := s.Spec.Service
	port := int32(443)
	if service.Port != nil {
		port = *service.Port
	}
	spec := fmt.Sprintf("%s %s/%s:%d %t %x", s.UID, service.Namespace, service.Name, port, s.Spec.InsecureSkipTLSVerify, s.Spec.CABundle)
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.transports[s.Name]
	if known != nil && known.spec == spec {
		return known.http, nil
	}
	config, err := clientTLS(s, p.cfg.Client)
	if err != nil {
		return nil, err
	}
	if known != nil {
		known.http.CloseIdleConnections()
	}
	made := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return p.cfg.Dial(ctx, service.Namespace, service.Name, port)
		},
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    10 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    25,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 1 << 20,
	}
	p.transports[s.Name] = &transport{spec, made}
	return made, nil
}
