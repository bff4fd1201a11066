package admission

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/resource"
)

func newCSR(t *testing.T, group string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane", Organization: []string{group}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "jane"}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: certificatesv1.KubeAPIServerClientSignerName,
		Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth},
	}}
}

func TestNobodyRequestsAnAdministratorsCertificate(t *testing.T) {
	r := newRegistry(t, Settings{})
	if _, err := r.Create(t.Context(), resource.CertificateSigningRequests, "", newCSR(t, "dev"), resource.CreateOptions{}); err != nil {
		t.Error(err)
	}
	_, err := r.Create(t.Context(), resource.CertificateSigningRequests, "", newCSR(t, "system:masters"), resource.CreateOptions{})
	if want := `certificatesigningrequests.certificates.k8s.io "jane" is forbidden: use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestWhoDecidesOnACertificateMayDoSoForItsSigner(t *testing.T) {
	old := newCSR(t, "dev")
	issued := old.DeepCopy()
	issued.Status.Certificate = []byte("certificate")
	for _, c := range []struct {
		name, subresource string
		obj               *certificatesv1.CertificateSigningRequest
		asked, want       string
	}{
		{"approving", "approval", old, "approve signers /kubernetes.io/*", `certificatesigningrequests.certificates.k8s.io "jane" is forbidden: user not permitted to approve requests with signerName "kubernetes.io/kube-apiserver-client"`},
		{"issuing", "status", issued, "sign signers /kubernetes.io/*", `certificatesigningrequests.certificates.k8s.io "jane" is forbidden: user not permitted to sign requests with signerName "kubernetes.io/kube-apiserver-client"`},
		{"a status that stays", "status", old, "", ""},
		{"a label", "", old, "", ""},
	} {
		asked := &questioned{}
		err := certificates{asked}.Validate(t.Context(), &resource.Attributes{
			Operation: resource.Update, Kind: resource.CertificateSigningRequests, Name: "jane", Subresource: c.subresource, Object: c.obj, OldObject: old, User: justName("jane"),
		})
		if asked.about != c.asked || c.want == "" && err != nil || c.want != "" && (!apierrors.IsForbidden(err) || err.Error() != c.want) {
			t.Errorf("%s: asked %q, error %v; want %q, %q", c.name, asked.about, err, c.asked, c.want)
		}
		if err := (certificates{&questioned{may: true}}).Validate(t.Context(), &resource.Attributes{
			Operation: resource.Update, Kind: resource.CertificateSigningRequests, Name: "jane", Subresource: c.subresource, Object: c.obj, OldObject: old, User: justName("jane"),
		}); err != nil {
			t.Errorf("%s, by who may: %v", c.name, err)
		}
	}
}
