package apiserver

import (
	"context"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// fakeAccounts issue the name of the account as its token.
type fakeAccounts struct{}

func (fakeAccounts) Request(_ context.Context, namespace, name string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	request.Namespace, request.Name = namespace, name
	request.Status.Token = "token of " + namespace + "/" + name
	return request, nil
}

func (fakeAccounts) Documents() (configuration, keys []byte, maxAge int, err error) {
	return []byte(`{"issuer":"https://i"}`), []byte(`{"keys":[]}`), 3600, nil
}

func TestTokensAreRequestedInEveryForm(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.ServiceAccounts = fakeAccounts{} })
	for _, media := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		issued, err := f.client(f.admin(), media).CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "robot",
			&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"a"}}}, metav1.CreateOptions{})
		if err != nil || issued.Status.Token != "token of default/robot" || len(issued.Spec.Audiences) != 1 {
			t.Errorf("%s: %+v, %v", media, issued, err)
		}
	}
	if got := f.do(f.config("someone"), "POST", "/api/v1/namespaces/default/serviceaccounts/robot/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest"}`); got.code != 403 {
		t.Errorf("somebody without rights: %d, want 403", got.code)
	}
}

func TestOpenIDDocumentsMayBeKept(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.ServiceAccounts = fakeAccounts{} })
	for path, want := range map[string]string{"/.well-known/openid-configuration": "application/json", "/openid/v1/jwks": "application/jwk-set+json"} {
		got := f.do(f.admin(), "GET", path, "")
		if got.code != 200 || got.header.Get("Content-Type") != want || got.header.Get("Cache-Control") != "public, max-age=3600" {
			t.Errorf("%s: %d %v, want 200, %s and a Cache-Control that lets it be kept", path, got.code, got.header, want)
		}
	}
}
