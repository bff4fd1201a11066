package kube

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/token/jwt"
	"k8s.io/apiserver/pkg/authentication/token/union"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/kubernetes/pkg/apis/authentication"
	_ "k8s.io/kubernetes/pkg/apis/authentication/install"
	authenticationvalidation "k8s.io/kubernetes/pkg/apis/authentication/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// What clients of the first bound tokens asked for, and how long such a token
// is good all the same, because clients of that time did not read it again.
const (
	WarnOnlyBoundTokenSeconds  = serviceaccount.WarnOnlyBoundTokenExpirationSeconds
	ExtendedBoundTokenSeconds  = serviceaccount.ExpirationExtensionSeconds
	LegacyTokenLastUsedLabel   = serviceaccount.LastUsedLabelKey
	OpenIDConfigurationPath    = serviceaccount.OpenIDConfigPath
	OpenIDKeysPath             = serviceaccount.JWKSPath
	LegacyServiceAccountIssuer = serviceaccount.LegacyIssuer
)

// TokenObjects finds what a token is bound to. Any error refuses the token.
type TokenObjects = serviceaccount.ServiceAccountTokenGetter

// TokenAuthenticator says who the bearer of a token is. ctx may carry the
// audiences that are asked for (authenticator.WithAudiences).
type TokenAuthenticator = authenticator.Token

// ServiceAccountSigner makes service accounts' tokens: JWTs signed with ES256.
type ServiceAccountSigner struct {
	bound, legacy serviceaccount.TokenGenerator
}

// NewServiceAccountSigner returns the signer of an issuer.
func NewServiceAccountSigner(issuer string, key *ecdsa.PrivateKey) (*ServiceAccountSigner, error) {
	bound, err := serviceaccount.JWTTokenGenerator(issuer, key)
	if err != nil {
		return nil, err
	}
	legacy, err := serviceaccount.JWTTokenGenerator(serviceaccount.LegacyIssuer, key)
	return &ServiceAccountSigner{bound, legacy}, err
}

// TokenClaims are what a bound token says. At most one of Secret and Pod is
// there; Node alone binds to the node, beside Pod it says where that is.
type TokenClaims struct {
	Account            *corev1.ServiceAccount
	Pod                *corev1.Pod
	Secret             *corev1.Secret
	Node               *corev1.Node
	Seconds, WarnAfter int64
	Audiences          []string
	CredentialID       string // set by Sign, for audit
}

// Sign makes a token for claims.
func (s *ServiceAccountSigner) Sign(ctx context.Context, claims *TokenClaims) (string, error) {
	account := core.ServiceAccount{ObjectMeta: named(claims.Account)}
	var pod *core.Pod
	var secret *core.Secret
	var node *core.Node
	if claims.Pod != nil {
		pod = &core.Pod{ObjectMeta: named(claims.Pod)}
	}
	if claims.Secret != nil {
		secret = &core.Secret{ObjectMeta: named(claims.Secret)}
	}
	if claims.Node != nil {
		node = &core.Node{ObjectMeta: named(claims.Node)}
	}
	public, private, err := serviceaccount.Claims(account, pod, secret, node, nil, nil, claims.Seconds, claims.WarnAfter, claims.Audiences, nil)
	if err != nil {
		return "", err
	}
	claims.CredentialID = jwt.CredentialIDForJTI(public.ID)
	return s.bound.GenerateToken(ctx, public, private)
}

// SignLegacy makes the token that a secret holds: it does not expire, and is
// good for as long as the secret holds it.
func (s *ServiceAccountSigner) SignLegacy(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) (string, error) {
	public, private := serviceaccount.LegacyClaims(*account, *secret)
	return s.legacy.GenerateToken(ctx, public, private)
}

func named(obj metav1.Object) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: obj.GetNamespace(), Name: obj.GetName(), UID: obj.GetUID()}
}

// ServiceAccountVerifier says what tokens are accepted.
type ServiceAccountVerifier struct {
	Issuers   []string
	Keys      []*ecdsa.PublicKey // any of which may have signed
	Audiences []string           // of this API
	Objects   TokenObjects
	// UsedLegacy labels the secret of a token of the old kind with the day of its use.
	UsedLegacy func(ctx context.Context, namespace, name string, labels map[string]string) error
}

// NewServiceAccountAuthenticator accepts bound tokens and those in secrets.
func NewServiceAccountAuthenticator(v ServiceAccountVerifier) (TokenAuthenticator, error) {
	keys, err := publicKeys(v.Keys)
	if err != nil {
		return nil, err
	}
	legacy, err := serviceaccount.NewLegacyValidator(true, v.Objects, usedSecrets{used: v.UsedLegacy})
	if err != nil {
		return nil, err
	}
	return union.NewFailOnError(
		serviceaccount.JWTTokenAuthenticator(v.Issuers, keys, v.Audiences, serviceaccount.NewValidator(v.Objects)),
		serviceaccount.JWTTokenAuthenticator([]string{serviceaccount.LegacyIssuer}, keys, v.Audiences, legacy),
	), nil
}

func publicKeys(keys []*ecdsa.PublicKey) (serviceaccount.PublicKeysGetter, error) {
	list := make([]any, 0, len(keys))
	for _, k := range keys {
		list = append(list, k)
	}
	return serviceaccount.StaticPublicKeysGetter(list)
}

// usedSecrets is the one call that upstream's validator makes of a client.
type usedSecrets struct {
	typedcorev1.SecretInterface
	namespace string
	used      func(ctx context.Context, namespace, name string, labels map[string]string) error
}

func (u usedSecrets) Secrets(namespace string) typedcorev1.SecretInterface {
	u.namespace = namespace
	return u
}

func (u usedSecrets) Patch(ctx context.Context, name string, _ types.PatchType, patch []byte, _ metav1.PatchOptions, _ ...string) (*corev1.Secret, error) {
	var change corev1.Secret
	if err := json.Unmarshal(patch, &change); err != nil {
		return nil, fmt.Errorf("patch of a secret's labels: %w", err)
	}
	return nil, u.used(ctx, u.namespace, name, change.Labels)
}

// OpenIDDocuments are what relying parties read to verify service accounts'
// tokens by themselves: the issuer's configuration and its keys, JSON, and for
// how many seconds they may be kept.
func OpenIDDocuments(issuer, keysURI string, public []*ecdsa.PublicKey) (configuration, keys []byte, maxAge int, err error) {
	getter, err := publicKeys(public)
	if err != nil {
		return nil, nil, 0, err
	}
	provider, err := serviceaccount.NewOpenIDMetadataProvider(issuer, keysURI, "", getter)
	if err != nil {
		return nil, nil, 0, err
	}
	configuration, maxAge = provider.GetConfigJSON()
	keys, _ = provider.GetKeysetJSON()
	return configuration, keys, maxAge, nil
}

// ValidateTokenRequest says what is wrong with a request for a token.
func ValidateTokenRequest(request *authenticationv1.TokenRequest) field.ErrorList {
	return authenticationvalidation.ValidateTokenRequest(internal[*authentication.TokenRequest](request.DeepCopy()))
}
