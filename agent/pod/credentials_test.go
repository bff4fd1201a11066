package pod

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/agent/volume"
)

// signer issues certificates of an hour, to be renewed after 40 minutes.
type signer struct {
	key      crypto.Signer
	requests [][]byte
}

func newSigner(t *testing.T) *signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{key: key}
}

func (s *signer) sign(request []byte) (Certificate, error) {
	s.requests = append(s.requests, request)
	parsed, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return Certificate{}, err
	}
	if err := parsed.CheckSignature(); err != nil {
		return Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(int64(len(s.requests))), Subject: pkix.Name{CommonName: "pod"},
		NotBefore: now, NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, parsed.PublicKey, s.key)
	if err != nil {
		return Certificate{}, err
	}
	chain := slices.Concat([]byte("between\n"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"k": "v"}, Bytes: der}))
	return Certificate{Chain: chain, BeginRefresh: now.Add(40 * time.Minute), NotAfter: template.NotAfter}, nil
}

// withCertificate is a pod with a certificate, and the anchors to check others'.
func withCertificate() *corev1.Pod {
	pod := newPod("web", command("main", "sleep"))
	pod.Spec.Volumes = []corev1.Volume{{Name: "id", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{
			SignerName: ptr.To("example.com/mesh"), LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"live": "yes"}}, Path: "anchors.pem",
		}},
		{PodCertificate: &corev1.PodCertificateProjection{
			SignerName: "example.com/mesh", KeyType: "ECDSAP256", CredentialBundlePath: "bundle.pem", KeyPath: "key.pem", CertificateChainPath: "chain.pem",
		}},
	}}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "id", MountPath: "/id"}}
	return pod
}

func TestPodsHaveCertificates(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		ca := newSigner(t)
		pending := true
		contents := &told{anchors: map[string]string{}, sign: func(request []byte) (Certificate, error) {
			if pending {
				return Certificate{}, ErrPending
			}
			return ca.sign(request)
		}}
		volumes := &shelf{files: map[string]map[string]volume.File{}}
		b.stop()
		b.contents, b.volumes = contents, volumes
		b.start()
		pod := withCertificate()
		b.manager.Put(pod)
		b.wait(2 * time.Second)
		if b.running(pod.UID, "main") != nil || !b.said.heard("matched zero ClusterTrustBundles") || !b.said.heard(ErrPending.Error()) {
			t.Fatalf("runs without anchors and certificate, or does not say why not: %+v", b.said.of(pod.UID))
		}
		contents.change(func() { contents.anchors["example.com/mesh?live=yes"] = "anchors"; pending = false })
		b.manager.Refill("")
		b.wait(time.Minute)
		if b.running(pod.UID, "main") == nil {
			t.Fatal("does not run once both are there")
		}
		if got := volumes.read(pod.UID, "id", "anchors.pem"); got != "anchors" {
			t.Errorf("anchors %q", got)
		}
		pair := func() string {
			t.Helper()
			bundle := volumes.read(pod.UID, "id", "bundle.pem")
			if bundle != volumes.read(pod.UID, "id", "key.pem")+volumes.read(pod.UID, "id", "chain.pem") {
				t.Error("the bundle is not key and chain")
			}
			if strings.Contains(bundle, "between") || strings.Contains(bundle, "k: v") {
				t.Errorf("more than PEM blocks: %s", bundle)
			}
			if _, err := tls.X509KeyPair([]byte(bundle), []byte(bundle)); err != nil {
				t.Errorf("the key is not the certificate's: %v", err)
			}
			return bundle
		}
		first := pair()
		requests := func() (all [][]byte) {
			contents.change(func() { all = slices.Clone(ca.requests) })
			return all
		}
		b.wait(38 * time.Minute)
		if asked := requests(); pair() != first || len(asked) != 1 {
			t.Errorf("renewed before it was time, %d requests", len(asked))
		}

		// While the signer is silent the old pair stays, and then there is a new
		// key, too.
		contents.change(func() { pending = true })
		b.wait(8 * time.Minute)
		if pair() != first {
			t.Error("replaced without a new certificate")
		}
		contents.change(func() { pending = false })
		b.wait(5 * time.Second)
		second, asked := pair(), requests()
		if second == first || len(asked) != 2 || bytes.Equal(asked[0], asked[1]) {
			t.Errorf("after the renewal the same pair, or %d requests", len(asked))
		}
		if b.running(pod.UID, "main") == nil {
			t.Error("the pod was stopped")
		}
	})
}

func TestRefusedCertificateIsTold(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		asked, times := 0, 0
		contents := &told{anchors: map[string]string{"example.com/mesh?live=yes": "anchors"}, sign: func([]byte) (Certificate, error) {
			asked++
			return Certificate{}, &RefusedError{Request: "req-1", Denied: true, Reason: "UnsupportedKeyType", Message: "try ED25519"}
		}}
		b.stop()
		b.contents, b.volumes = contents, &shelf{files: map[string]map[string]volume.File{}}
		b.start()
		pod := withCertificate()
		b.manager.Put(pod)
		b.wait(10 * time.Minute)
		contents.change(func() { times = asked })
		if b.running(pod.UID, "main") != nil || times != 1 || !b.said.heard(`PodCertificateRequest req-1 was denied, reason="UnsupportedKeyType", message="try ED25519"`) {
			t.Errorf("runs, or asked %d times for what was denied: %+v", times, b.said.of(pod.UID))
		}
	})
}

func TestKeysOfEachType(t *testing.T) {
	for _, keyType := range []string{"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"} {
		pair, err := newKeyPair(keyType)
		if err != nil {
			t.Errorf("%s: %v", keyType, err)
			continue
		}
		request, err := x509.ParseCertificateRequest(pair.request)
		if err != nil || request.CheckSignature() != nil {
			t.Errorf("%s: a request that proves nothing: %v", keyType, err)
		}
	}
	if _, err := newKeyPair("DSA"); !errors.Is(err, volume.ErrUnsupported) {
		t.Errorf("DSA: %v", err)
	}
}

func TestAnchorsAreNamed(t *testing.T) {
	signer := ptr.To("example.com/mesh")
	for _, c := range []struct {
		source corev1.ClusterTrustBundleProjection
		want   string
	}{
		{corev1.ClusterTrustBundleProjection{Name: ptr.To("b")}, "b"},
		{corev1.ClusterTrustBundleProjection{SignerName: signer}, ""},
		{corev1.ClusterTrustBundleProjection{SignerName: signer, LabelSelector: &metav1.LabelSelector{}}, "example.com/mesh?"},
		{corev1.ClusterTrustBundleProjection{SignerName: signer, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"b": "2", "a": "1"}}}, "example.com/mesh?a=1,b=2"},
	} {
		if got := AnchorsName(&c.source); got != c.want {
			t.Errorf("%+v: %q, want %q", c.source, got, c.want)
		}
	}
}
