package custom

import (
	"context"
	"fmt"
	"net"
	"net/http"

	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/rest"
)

// Dial connects to a port of a service, wherever it is.
type Dial func(ctx context.Context, namespace, name string, port int32) (net.Conn, error)

// caller is how conversion webhooks are called: without credentials, as by
// upstream unless it is given a file of them. It is upstream's
// AuthenticationInfoResolver.
type caller struct{ dial Dial }

func (c caller) wrap(webhook.AuthenticationInfoResolver) webhook.AuthenticationInfoResolver { return c }

func (caller) ClientConfigFor(string) (*rest.Config, error) {
	return &rest.Config{WrapTransport: refuseRedirects}, nil
}

func (c caller) ClientConfigForService(name, namespace string, port int) (*rest.Config, error) {
	config := &rest.Config{WrapTransport: refuseRedirects}
	if c.dial != nil {
		config.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.dial(ctx, namespace, name, int32(port))
		}
	}
	return config, nil
}

// refuseRedirects because they could lead anywhere that a control node reaches
// (CVE-2020-8561 tells of admission webhooks).
func refuseRedirects(next http.RoundTripper) http.RoundTripper { return noRedirects{next} }

type noRedirects struct{ next http.RoundTripper }

func (n noRedirects) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := n.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 300 && response.StatusCode < 400 {
		_ = response.Body.Close()
		return nil, fmt.Errorf("the webhook answered %s, and redirects are not followed", response.Status)
	}
	return response, nil
}

// WrappedRoundTripper lets client-go find the transport.
func (n noRedirects) WrappedRoundTripper() http.RoundTripper { return n.next }
