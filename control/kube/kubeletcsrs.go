package kube

import (
	"crypto/x509"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kubernetes/pkg/apis/certificates"
)

// ParseCertificateRequest reads what is in a CertificateSigningRequest.
func ParseCertificateRequest(pem []byte) (*x509.CertificateRequest, error) {
	return certificates.ParseCSR(pem)
}

// ValidateKubeletClientRequest says why a request is not for the client
// certificate of a node.
func ValidateKubeletClientRequest(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	return certificates.ValidateKubeletClientCSR(request, usageSet(usages))
}

// ValidateKubeletServingRequest says why a request is not for the certificate
// that a node serves with.
func ValidateKubeletServingRequest(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	return certificates.ValidateKubeletServingCSR(request, usageSet(usages))
}

func usageSet(usages []certificatesv1.KeyUsage) sets.String {
	set := sets.NewString()
	for _, u := range usages {
		set.Insert(string(u))
	}
	return set
}
