package rootca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

func certificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// A saved cluster brings the bundle of another CA along; and a leader may die before it has
// written its own.
func TestTheBundleOfTheSignerIsTheCAs(t *testing.T) {
	old, now := certificate(t), certificate(t)
	controllertest.LeaderDiesAtAnyWrite(t, 3, func(t *testing.T, user *controllertest.Term) {
		for name, signer := range map[string]string{"kubernetes.io:kube-apiserver-serving:old": servingSigner, "example.com:other:a": "example.com/other"} {
			controllertest.Create(user, resource.ClusterTrustBundles, &certificatesv1.ClusterTrustBundle{
				ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: string(old)},
			})
		}
	}, func(m *controllertest.Term) {
		m.Run(NewBundle(m.Registry, now, m.Logger).Run)
	}, func(t *testing.T, m *controllertest.Term) {
		got := map[string]string{}
		for _, b := range controllertest.List[*certificatesv1.ClusterTrustBundle](m, store.ClusterTrustBundles) {
			got[b.Spec.SignerName] += b.Spec.TrustBundle
		}
		if len(got) != 2 || got[servingSigner] != string(now) || got["example.com/other"] != string(old) {
			t.Errorf("bundles %v, want the CA's of its signer and what others have", got)
		}
	})
}
