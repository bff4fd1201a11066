package admission

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
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

// By a signer's bundle its certificates are believed, and by a request's status a
// pod: neither is for whoever may write the objects.
func TestWhoSpeaksForASignerMayDoSo(t *testing.T) {
	bundle := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "example.org:signer:a"}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: "example.org/signer", TrustBundle: "a"}}
	collected, changed, nobodys := bundle.DeepCopy(), bundle.DeepCopy(), bundle.DeepCopy()
	collected.Finalizers = []string{"example.org/stay"}
	changed.Spec.TrustBundle, nobodys.Spec.SignerName = "b", ""
	request := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: certificatesv1.PodCertificateRequestSpec{SignerName: "example.org/signer"}}
	answered, labelled := request.DeepCopy(), request.DeepCopy()
	answered.Status.CertificateChain = "chain"
	labelled.Labels = map[string]string{"a": "b"}
	const attest, sign = "attest signers /example.org/*", "sign signers /example.org/*"
	for _, c := range []struct {
		name        string
		a           resource.Attributes
		asked, want string
	}{
		{"a new bundle", resource.Attributes{Operation: resource.Create, Kind: resource.ClusterTrustBundles, Object: bundle}, attest, `user not permitted to attest for signerName "example.org/signer"`},
		{"another content", resource.Attributes{Operation: resource.Update, Kind: resource.ClusterTrustBundles, Object: changed, OldObject: bundle}, attest, `user not permitted to attest for signerName "example.org/signer"`},
		{"what collects garbage", resource.Attributes{Operation: resource.Update, Kind: resource.ClusterTrustBundles, Object: collected, OldObject: bundle}, "", ""},
		{"nobody's bundle", resource.Attributes{Operation: resource.Create, Kind: resource.ClusterTrustBundles, Object: nobodys}, "", ""},
		{"no bundle any more", resource.Attributes{Operation: resource.Delete, Kind: resource.ClusterTrustBundles, OldObject: bundle}, "", ""},
		{"an answer", resource.Attributes{Operation: resource.Update, Kind: resource.PodCertificateRequests, Subresource: "status", Object: answered, OldObject: request}, sign, `spec.signerName: Forbidden: User "jane" is not permitted to "sign" for signer "example.org/signer"`},
		{"a status that stays", resource.Attributes{Operation: resource.Update, Kind: resource.PodCertificateRequests, Subresource: "status", Object: labelled, OldObject: request}, "", ""},
		{"a label", resource.Attributes{Operation: resource.Update, Kind: resource.PodCertificateRequests, Object: labelled, OldObject: request}, "", ""},
	} {
		c.a.User, c.a.Name = justName("jane"), "a"
		asked := &questioned{}
		err := certificates{asked}.Validate(t.Context(), &c.a)
		if asked.about != c.asked || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: asked %q, error %v; want %q, %q", c.name, asked.about, err, c.asked, c.want)
		}
		if err := (certificates{&questioned{may: true}}).Validate(t.Context(), &c.a); err != nil {
			t.Errorf("%s, by who may: %v", c.name, err)
		}
	}
}
