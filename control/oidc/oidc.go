// Package oidc admits people by the tokens of identity providers outside the
// cluster (OpenID Connect). Which claims make a user is said as upstream has it:
// in an AuthenticationConfiguration, or by a few settings for one provider.
// Upstream's authenticator does the checking; what a user may do is package
// auth's business.
package oidc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	upstream "k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
	"k8s.io/utils/ptr"
)

// Config names the providers. The zero value is none.
type Config struct {
	// File is an AuthenticationConfiguration (apiserver.config.k8s.io), YAML or
	// JSON. It excludes what follows, which describes one provider.
	File string

	Issuer, ClientID              string
	UsernameClaim, UsernamePrefix string // default sub, and the issuer with a #; "-": none
	GroupsClaim, GroupsPrefix     string
	RequiredClaims                map[string]string
	SigningAlgorithms             []string // default RS256
	// CAFile holds the CA certificates of the provider, PEM; default the system's.
	CAFile string

	// Reserved are issuers whose tokens are not these providers' to make.
	Reserved []string
	Logger   *slog.Logger
}

// Tokens are those of all providers. They are known once Run runs, and has
// fetched the providers' keys.
type Tokens struct {
	cfg       Config
	providers []apiserver.JWTAuthenticator
	running   atomic.Pointer[[]authenticator.Token]
}

// New reads and checks the configuration; it asks no provider.
func New(cfg Config) (*Tokens, error) {
	providers, err := cfg.providers()
	if err != nil {
		return nil, fmt.Errorf("oidc: %w", err)
	}
	all := &apiserver.AuthenticationConfiguration{JWT: providers}
	if errs := validation.ValidateAuthenticationConfiguration(authenticationcel.NewDefaultCompiler(), all, cfg.Reserved); len(errs) > 0 {
		return nil, fmt.Errorf("oidc: %w", errs.ToAggregate())
	}
	for _, algorithm := range cfg.SigningAlgorithms {
		if !slices.Contains(upstream.AllValidSigningAlgorithms(), algorithm) {
			return nil, fmt.Errorf("oidc-signing-algs: %q is none of %q", algorithm, upstream.AllValidSigningAlgorithms())
		}
	}
	return &Tokens{cfg: cfg, providers: providers}, nil
}

func (c *Config) providers() ([]apiserver.JWTAuthenticator, error) {
	single := c.Issuer != "" || c.ClientID != ""
	switch {
	case c.File != "" && single:
		return nil, errors.New("authentication-config and oidc-issuer-url exclude each other")
	case c.File != "":
		return readFile(c.File)
	case !single:
		return nil, nil
	case c.Issuer == "" || c.ClientID == "":
		return nil, errors.New("oidc-issuer-url and oidc-client-id go together")
	}
	provider := apiserver.JWTAuthenticator{Issuer: apiserver.Issuer{URL: c.Issuer, Audiences: []string{c.ClientID}}}
	username := c.UsernameClaim
	if username == "" {
		username = "sub"
	}
	prefix := c.UsernamePrefix
	switch {
	case prefix == "-":
		prefix = ""
	case prefix == "" && username != "email":
		// As upstream: a name says whose it is unless it does so by itself.
		prefix = c.Issuer + "#"
	}
	provider.ClaimMappings.Username = apiserver.PrefixedClaimOrExpression{Prefix: ptr.To(prefix), Claim: username}
	if c.GroupsClaim != "" {
		provider.ClaimMappings.Groups = apiserver.PrefixedClaimOrExpression{Prefix: ptr.To(c.GroupsPrefix), Claim: c.GroupsClaim}
	}
	for claim, value := range c.RequiredClaims {
		provider.ClaimValidationRules = append(provider.ClaimValidationRules, apiserver.ClaimValidationRule{Claim: claim, RequiredValue: value})
	}
	if c.CAFile != "" {
		ca, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("oidc-ca-file: %w", err)
		}
		provider.Issuer.CertificateAuthority = string(ca)
	}
	return []apiserver.JWTAuthenticator{provider}, nil
}

func readFile(path string) ([]apiserver.JWTAuthenticator, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("authentication-config: %w", err)
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	decoded, err := runtime.Decode(serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDecoder(), text)
	if err != nil {
		return nil, fmt.Errorf("authentication-config: %s: %w", path, err)
	}
	configuration, ok := decoded.(*apiserver.AuthenticationConfiguration)
	switch {
	case !ok:
		return nil, fmt.Errorf("authentication-config: %s: a %T where there should be an AuthenticationConfiguration", path, decoded)
	case configuration.Anonymous != nil:
		return nil, fmt.Errorf("authentication-config: %s: anonymous: who is nobody is answered health and version only, which can't be changed", path)
	}
	return configuration.JWT, nil
}

// certificates are a provider's CAs, PEM.
type certificates string

func (c certificates) CurrentCABundleContent() []byte { return []byte(c) }

// Run asks the providers for their keys, again and again until they answer, and
// knows their tokens until ctx ends.
func (t *Tokens) Run(ctx context.Context) error {
	var running []authenticator.Token
	for _, provider := range t.providers {
		options := upstream.Options{
			JWTAuthenticator: provider, SupportedSigningAlgs: t.cfg.SigningAlgorithms, DisallowedIssuers: t.cfg.Reserved,
		}
		if ca := provider.Issuer.CertificateAuthority; ca != "" {
			options.CAContentProvider = certificates(ca)
		}
		one, err := upstream.New(ctx, options)
		if err != nil {
			return fmt.Errorf("oidc: %s: %w", provider.Issuer.URL, err)
		}
		running = append(running, one)
	}
	t.running.Store(&running)
	defer t.running.Store(nil)
	<-ctx.Done()
	return nil
}

// Lookup says who the bearer of a token is.
func (t *Tokens) Lookup(ctx context.Context, token string) (user.Info, bool, error) {
	running := t.running.Load()
	if running == nil {
		return nil, false, nil
	}
	for _, provider := range *running {
		response, ok, err := provider.AuthenticateToken(ctx, token)
		if ok && err == nil {
			return response.User, true, nil
		}
		if err != nil {
			// Of a provider's own token: expired, or a claim is not as it should be.
			t.cfg.Logger.Debug("a token of an identity provider is refused", "error", err)
		}
	}
	return nil, false, nil
}
