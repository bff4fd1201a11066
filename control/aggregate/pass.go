package aggregate

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/authentication/user"
	clienttransport "k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/streaming/pkg/httpstream"
)

// clientTLS is how a service must prove itself, by its name in the cluster, and
// what it is shown.
func clientTLS(s *apiregistrationv1.APIService, client tls.Certificate) (*tls.Config, error) {
	config := &tls.Config{
		ServerName:         serverName(s),
		InsecureSkipVerify: s.Spec.InsecureSkipTLSVerify,
		Certificates:       []tls.Certificate{client},
		MinVersion:         tls.VersionTLS12,
	}
	if len(s.Spec.CABundle) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(s.Spec.CABundle) {
			return nil, fmt.Errorf("apiservice %s: no certificate in its caBundle", s.Name)
		}
	}
	return config, nil
}

func serverName(s *apiregistrationv1.APIService) string {
	return s.Spec.Service.Name + "." + s.Spec.Service.Namespace + ".svc"
}

// Pass sends r on to a service in the name of who, and its answer back. r must
// say nothing of its own about who sends it. fail answers when the service does not.
func (p *Proxy) Pass(w http.ResponseWriter, r *http.Request, s *apiregistrationv1.APIService, who user.Info, fail func(http.ResponseWriter, *http.Request, error)) {
	if !Available(s) {
		fail(w, r, ErrUnavailable)
		return
	}
	base, err := p.transport(s)
	if err != nil {
		fail(w, r, err)
		return
	}
	location := &url.URL{Scheme: "https", Host: serverName(s), Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
	r = r.Clone(r.Context())
	r.Host = location.Host
	upgrade := httpstream.IsUpgradeRequest(r)
	if upgrade {
		// An upgrade is written to a connection as it is, past the transport.
		clienttransport.SetAuthProxyHeaders(r, who.GetName(), who.GetUID(), who.GetGroups(), who.GetExtra())
	}
	// The headers are set where a request leaves, after those that its Connection
	// header names were taken off: a client could name these.
	named := clienttransport.NewAuthProxyRoundTripper(who.GetName(), who.GetUID(), who.GetGroups(), who.GetExtra(), base)
	handler := proxy.NewUpgradeAwareHandler(location, named, true, upgrade, failure(fail))
	// CVE-2022-3172: a redirect would take the client, and its credentials, to
	// wherever the service says.
	handler.RejectForwardingRedirects = true
	handler.ServeHTTP(w, r)
}

type failure func(http.ResponseWriter, *http.Request, error)

func (f failure) Error(w http.ResponseWriter, r *http.Request, err error) {
	if !errors.Is(err, ErrUnavailable) {
		err = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	f(w, r, err)
}
