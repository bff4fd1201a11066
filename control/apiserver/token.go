package apiserver

import (
	"context"
	"fmt"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
)

// ServiceAccounts issues service accounts' tokens.
type ServiceAccounts interface {
	// Request issues a token for the service account of that name.
	Request(ctx context.Context, namespace, name string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)
	// Documents are the issuer's OpenID configuration and its keys, JSON, and for
	// how many seconds they may be kept.
	Documents() (configuration, keys []byte, maxAge int, err error)
}

var tokenRequestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

// requestToken serves serviceaccounts/token. Admission sees what is asked for: a
// node may have tokens of its own pods only.
func (s *Server) requestToken(w http.ResponseWriter, r *http.Request, c *call) error {
	if s.accounts == nil {
		return errPathNotFound
	}
	out, err := negotiate(r)
	if err != nil {
		return err
	}
	options, err := createOptions(r)
	if err != nil {
		return err
	}
	request := &authenticationv1.TokenRequest{}
	if err := decodeBody(r, tokenRequestKind, request, fieldValidation(options.FieldValidation)); err != nil {
		return err
	}
	kube.Default(request)
	if err := s.registry.AdmitRequest(r.Context(), c.kind, c.namespace, c.name, c.subresource, tokenRequestKind, request, resource.CreateOptions{
		DryRun: len(options.DryRun) > 0, FieldManager: options.FieldManager, FieldValidation: options.FieldValidation,
	}); err != nil {
		return err
	}
	issued, err := s.accounts.Request(r.Context(), c.namespace, c.name, request)
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusCreated, tokenRequestKind, issued, out)
}

// openIDEndpoints are what relying parties read to verify tokens by themselves.
func (s *Server) openIDEndpoints(mux *http.ServeMux) {
	if s.accounts == nil {
		return
	}
	serve := func(media string, pick func(configuration, keys []byte) []byte) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			configuration, keys, maxAge, err := s.accounts.Documents()
			if err != nil {
				s.fail(w, r, err)
				return
			}
			w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", maxAge))
			s.write(w, r, http.StatusOK, media, pick(configuration, keys))
		}
	}
	mux.HandleFunc("GET "+kube.OpenIDConfigurationPath, serve(mediaJSON, func(configuration, _ []byte) []byte { return configuration }))
	mux.HandleFunc("GET "+kube.OpenIDKeysPath, serve("application/jwk-set+json", func(_, keys []byte) []byte { return keys }))
}
