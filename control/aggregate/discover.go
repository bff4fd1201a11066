package aggregate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	clienttransport "k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

const (
	// discoverEvery is how often services are asked what they offer.
	discoverEvery = time.Minute
	// discoverTimeout is how long one may take to say.
	discoverTimeout = 5 * time.Second
	discoverMax     = 4 << 20
	// askedAtOnce bounds the services that are asked at a time.
	askedAtOnce = 16
)

// Discovered is what a service said that it serves.
type Discovered struct {
	schema.GroupVersion
	Resources []metav1.APIResource
	// Stale says that the service did not answer when it was last asked.
	Stale bool
	// Document is where the service has its OpenAPI document of version 3, with
	// the document's hash. Empty: it has none.
	Document string
}

// Discovered lists what all services offer, also those that never answered.
// Nothing of it may be changed.
func (p *Proxy) Discovered() []Discovered {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.offers) == 0 {
		return nil
	}
	list := make([]Discovered, 0, len(p.offers))
	for _, d := range p.offers {
		list = append(list, d)
	}
	return list
}

// look asks for another round of questions. It never blocks.
func (p *Proxy) look() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

func (p *Proxy) discover(ctx context.Context) error {
	ticker := time.NewTicker(discoverEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.changed:
		case <-ticker.C:
		}
		p.discoverAll(ctx)
	}
}

// discoverAll asks every service once.
func (p *Proxy) discoverAll(ctx context.Context) {
	services := slices.DeleteFunc(p.services.List(), func(s *apiregistrationv1.APIService) bool { return !isRemote(s) })
	places := make(chan struct{}, askedAtOnce)
	var asking sync.WaitGroup
	for _, s := range services {
		places <- struct{}{}
		asking.Go(func() {
			defer func() { <-places }()
			list, err := p.ask(ctx, s)
			var document string
			if err == nil {
				document = p.askDocument(ctx, s)
			} else {
				p.cfg.Logger.Debug("an aggregated API does not say what it serves", "apiservice", s.Name, "error", err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			offer := Discovered{GroupVersion: schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}, Stale: err != nil}
			if err == nil {
				offer.Resources, offer.Document = list.APIResources, document
			} else {
				offer.Resources, offer.Document = p.offers[s.Name].Resources, p.offers[s.Name].Document
			}
			p.offers[s.Name] = offer
		})
	}
	asking.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	there := func(name string) bool {
		return slices.ContainsFunc(services, func(s *apiregistrationv1.APIService) bool { return s.Name == name })
	}
	for name := range p.offers {
		if !there(name) {
			delete(p.offers, name)
		}
	}
	for name, t := range p.transports {
		if !there(name) {
			t.http.CloseIdleConnections()
			delete(p.transports, name)
		}
	}
}

// ask reads what a service must say: the resources of its version of its group.
func (p *Proxy) ask(ctx context.Context, s *apiregistrationv1.APIService) (*metav1.APIResourceList, error) {
	path := "/apis/" + s.Spec.Group + "/" + s.Spec.Version
	if s.Spec.Group == "" {
		path = "/api/" + s.Spec.Version
	}
	list := &metav1.APIResourceList{}
	return list, p.read(ctx, s, path, list)
}

// askDocument reads where a service has its OpenAPI document. Not all have one.
func (p *Proxy) askDocument(ctx context.Context, s *apiregistrationv1.APIService) string {
	var index struct {
		Paths map[string]struct {
			At string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	if p.read(ctx, s, "/openapi/v3", &index) != nil {
		return ""
	}
	path := "apis/" + s.Spec.Group + "/" + s.Spec.Version
	// What is elsewhere is not passed on, and so nobody could read it.
	if at := index.Paths[path].At; strings.HasPrefix(at, "/openapi/v3/"+path) {
		return at
	}
	return ""
}

// read asks a service for JSON, as the control plane itself.
func (p *Proxy) read(ctx context.Context, s *apiregistrationv1.APIService, path string, into any) error {
	base, err := p.transport(s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+serverName(s)+path, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "application/json")
	clienttransport.SetAuthProxyHeaders(r, "system:kube-aggregator", "", []string{user.SystemPrivilegedGroup}, nil)
	response, err := base.RoundTrip(r) // which follows no redirect
	if err != nil {
		return fmt.Errorf("failing or missing response from %s: %w", r.URL, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("failing or missing response from %s: bad status from %s: %d", r.URL, r.URL, response.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(response.Body, discoverMax))
	if err != nil {
		return fmt.Errorf("failing or missing response from %s: %w", r.URL, err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("what %s says: %w", r.URL, err)
	}
	return nil
}
