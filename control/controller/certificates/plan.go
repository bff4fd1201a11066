package certificates

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/kube"
)

// How long requests are kept after the last that was said about them, as
// upstream's cleaner does.
const (
	keepDecided = time.Hour
	keepPending = 24 * time.Hour
)

// Lifetimes of certificates: without a wish it is the longest.
const (
	lifetimeMin = 10 * time.Minute
	lifetimeMax = 365 * 24 * time.Hour
)

// goesAt is when nobody needs a request any more, zero for never. A condition
// without a time keeps it for good, as upstream.
func goesAt(csr *certificatesv1.CertificateSigningRequest) time.Time {
	if len(csr.Status.Conditions) == 0 {
		return csr.CreationTimestamp.Add(keepPending)
	}
	var at time.Time
	earlier := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for _, c := range csr.Status.Conditions {
		since, keep := c.LastUpdateTime, keepDecided
		if c.Type == certificatesv1.CertificateApproved {
			if len(csr.Status.Certificate) == 0 {
				keep = keepPending
			} else if end, ok := endOf(csr.Status.Certificate); ok {
				earlier(end)
			}
		}
		if !since.IsZero() {
			earlier(since.Add(keep))
		}
	}
	return at
}

func endOf(certificate []byte) (time.Time, bool) {
	block, _ := pem.Decode(certificate)
	if block == nil {
		return time.Time{}, false
	}
	parsed, err := x509.ParseCertificates(block.Bytes)
	if err != nil || len(parsed) == 0 {
		return time.Time{}, false
	}
	return parsed[0].NotAfter, true
}

// What is to be done with a request.
type step int

const (
	wait    step = iota // for a person, another signer, or the time to go
	approve             // if its sender may have it without being asked
	sign
)

func nextStep(csr *certificatesv1.CertificateSigningRequest) step {
	has := func(t certificatesv1.RequestConditionType, only corev1.ConditionStatus) bool {
		return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool {
			return c.Type == t && (only == "" || c.Status == only)
		})
	}
	approved, denied := has(certificatesv1.CertificateApproved, ""), has(certificatesv1.CertificateDenied, "")
	switch {
	case len(csr.Status.Certificate) > 0 || denied || has(certificatesv1.CertificateFailed, corev1.ConditionTrue):
		return wait
	case approved && signs(csr.Spec.SignerName):
		return sign
	case !approved && csr.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName:
		return approve
	}
	return wait
}

// signs says whether a signer is this cluster. Upstream's fourth, legacy-unknown, can't
// be asked for in the version that is served.
func signs(signer string) bool {
	return signer == certificatesv1.KubeAPIServerClientSignerName ||
		signer == certificatesv1.KubeAPIServerClientKubeletSignerName ||
		signer == certificatesv1.KubeletServingSignerName
}

// acceptable says why a signer does not sign a request, in upstream's words.
func acceptable(signer string, request *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	switch signer {
	case certificatesv1.KubeletServingSignerName:
		return kube.ValidateKubeletServingRequest(request, usages)
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return kube.ValidateKubeletClientRequest(request, usages)
	}
	for _, u := range usages {
		if u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageKeyEncipherment && u != certificatesv1.UsageClientAuth {
			return fmt.Errorf("invalid usage for client certificate: %s", u)
		}
	}
	if !slices.Contains(usages, certificatesv1.UsageClientAuth) {
		return fmt.Errorf("missing required usage for client certificate: %s", certificatesv1.UsageClientAuth)
	}
	return nil
}

func lifetime(seconds *int32) time.Duration {
	if seconds == nil {
		return lifetimeMax
	}
	return min(max(time.Duration(*seconds)*time.Second, lifetimeMin), lifetimeMax)
}

// A permission lets its holder have a node's client certificate unasked.
type permission struct {
	subresource string
	message     string
}

// permissions are those of which one suffices for a request, in upstream's order; none
// for what is not a node's client certificate.
func permissions(csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) []permission {
	if kube.ValidateKubeletClientRequest(request, csr.Spec.Usages) != nil {
		return nil
	}
	enough := []permission{{"nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."}}
	if csr.Spec.Username == request.Subject.CommonName {
		enough = append([]permission{{"selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."}}, enough...)
	}
	return enough
}
