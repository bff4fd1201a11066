package pod

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/agent/volume"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// ErrPending says that a signer has not answered yet.
var ErrPending = errors.New("the certificate has not been issued yet")

// RefusedError is a signer's refusal of a pod's certificate.
type RefusedError struct {
	Request         string // name of the PodCertificateRequest
	Denied          bool   // or else it failed
	Reason, Message string
}

func (e *RefusedError) Error() string {
	verb := "failed"
	if e.Denied {
		verb = "was denied"
	}
	return fmt.Sprintf("PodCertificateRequest %s %s, reason=%q, message=%q", e.Request, verb, e.Reason, e.Message)
}

// Certificate is what a signer issued.
type Certificate struct {
	Chain                  []byte // PEM
	BeginRefresh, NotAfter time.Time
}

// anchorsFile adds a bundle of trust anchors.
func (w *worker) anchorsFile(files map[string]volume.File, pod *corev1.Pod, source *corev1.ClusterTrustBundleProjection, mode *int32) error {
	anchors, err := w.anchors(source)
	if err != nil {
		return err
	}
	if len(anchors) == 0 && !isTrue(source.Optional) {
		if source.Name != nil {
			return fmt.Errorf("clustertrustbundle %q not found", *source.Name)
		}
		return errors.New("combination of signerName and labelSelector matched zero ClusterTrustBundles")
	}
	files[source.Path] = credential(pod, anchors, mode)
	return nil
}

func (w *worker) anchors(source *corev1.ClusterTrustBundleProjection) ([]byte, error) {
	name := AnchorsName(source)
	if name == "" {
		return nil, nil
	}
	anchors, err := w.m.cfg.Contents.TrustAnchors(name)
	if err != nil {
		return nil, fmt.Errorf("clustertrustbundle %q: %w", name, err)
	}
	return anchors, nil
}

// AnchorsName is the name of the trust anchors that a projection shows, as
// Content has it; "" when they are none, whatever bundles there are: no label
// selector selects nothing, an empty one everything.
func AnchorsName(source *corev1.ClusterTrustBundleProjection) string {
	if source.Name != nil {
		return *source.Name
	}
	selector, err := metav1.LabelSelectorAsSelector(source.LabelSelector)
	if err != nil || source.SignerName == nil || source.LabelSelector == nil {
		return ""
	}
	return agentv1.SignersAnchors(*source.SignerName, selector.String())
}

const (
	// pendingAfter is the pause before a signer's answer is asked for again.
	pendingAfter = time.Second
	// refreshSpread bounds by how much renewals are put off, so that pods of one
	// rollout do not renew at once.
	refreshSpread = 5 * time.Minute
)

// keyPair is a key of a pod, in memory only, and what became of its request.
type keyPair struct {
	private []byte // PEM, PKCS #8
	request []byte // PKCS #10, DER
	// issued is unset while the signer has not answered, refused when it will not.
	issued    *Certificate
	refused   *RefusedError
	refreshAt time.Time
	// next is the one that is to follow it.
	next *keyPair
}

// certificateFiles adds a key and its certificate. A new pair takes the place of
// the old one only when it is complete; a refusal is for good, as its reason does
// not go away by asking again.
func (w *worker) certificateFiles(ctx context.Context, files map[string]volume.File, pod *corev1.Pod, name string, index int, source *corev1.PodCertificateProjection, mode *int32) error {
	place := fmt.Sprintf("%s/%d", name, index)
	have := w.keys[place]
	if have == nil {
		pair, err := newKeyPair(source.KeyType)
		if err != nil {
			return err
		}
		if w.keys == nil {
			w.keys = map[string]*keyPair{}
		}
		have = pair
		w.keys[place] = have
	}
	if have.issued == nil {
		if err := w.obtain(ctx, pod, name, index, have); err != nil {
			return err
		}
	} else if !time.Now().Before(have.refreshAt) {
		if next := w.successor(ctx, pod, name, index, source, have); next != nil {
			have = next
			w.keys[place] = have
		}
	}
	if have.refreshAt.After(time.Now()) {
		w.refill(have.refreshAt)
	} else if have.next == nil || have.next.refused == nil {
		w.refill(time.Now().Add(pendingAfter))
	}
	if source.CredentialBundlePath != "" {
		files[source.CredentialBundlePath] = credential(pod, slices.Concat(have.private, have.issued.Chain), mode)
	}
	if source.KeyPath != "" {
		files[source.KeyPath] = credential(pod, have.private, mode)
	}
	if source.CertificateChainPath != "" {
		files[source.CertificateChainPath] = credential(pod, have.issued.Chain, mode)
	}
	return nil
}

// successor is a pair that may take the place of have, or nil when there is none
// yet.
func (w *worker) successor(ctx context.Context, pod *corev1.Pod, name string, index int, source *corev1.PodCertificateProjection, have *keyPair) *keyPair {
	var err error
	if have.next == nil {
		have.next, err = newKeyPair(source.KeyType)
	}
	if err == nil {
		err = w.obtain(ctx, pod, name, index, have.next)
	}
	if err != nil {
		w.log.Debug("a pod's certificate was not renewed", "volume", name, "err", err)
		return nil
	}
	return have.next
}

// obtain asks for the certificate of a pair.
func (w *worker) obtain(ctx context.Context, pod *corev1.Pod, name string, index int, pair *keyPair) error {
	if pair.refused != nil {
		return pair.refused
	}
	issued, err := w.m.cfg.Contents.Certificate(ctx, pod, name, index, pair.request)
	if errors.As(err, &pair.refused) {
		reason := "Failed"
		if pair.refused.Denied {
			reason = "Denied"
		}
		w.event(pod, "", corev1.EventTypeWarning, reason, pair.refused.Error())
	}
	if err != nil {
		return err
	}
	issued.Chain = onlyCertificates(issued.Chain)
	pair.issued = &issued
	pair.refreshAt = issued.BeginRefresh.Add(mathrand.N(refreshSpread))
	return nil
}

// newKeyPair makes a key, and a request that proves that we have it and says
// nothing else.
func newKeyPair(keyType string) (*keyPair, error) {
	var key crypto.Signer
	var err error
	switch keyType {
	case "RSA3072":
		key, err = rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		key, err = rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		key, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		return nil, fmt.Errorf("a key of type %q is %w", keyType, volume.ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	return &keyPair{private: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), request: request}, nil
}

// onlyCertificates leaves out what stands between certificates and in their
// headers.
func onlyCertificates(chain []byte) []byte {
	var clean bytes.Buffer
	for {
		var block *pem.Block
		if block, chain = pem.Decode(chain); block == nil {
			return clean.Bytes()
		}
		if block.Type == "CERTIFICATE" {
			_ = pem.Encode(&clean, &pem.Block{Type: block.Type, Bytes: block.Bytes}) // into memory
		}
	}
}
