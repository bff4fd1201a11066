package kube

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/certificates"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	"k8s.io/kubernetes/pkg/apis/certificates/validation"
	"k8s.io/utils/clock"
)

// Upstream's rules for certificates.k8s.io, as they are.
var (
	ValidateCertificateSigningRequest               = onCreate[*certificatesv1.CertificateSigningRequest](validation.ValidateCertificateSigningRequestCreate)
	ValidateCertificateSigningRequestUpdate         = onUpdate[*certificatesv1.CertificateSigningRequest](validation.ValidateCertificateSigningRequestUpdate)
	ValidateCertificateSigningRequestStatusUpdate   = onUpdate[*certificatesv1.CertificateSigningRequest](validation.ValidateCertificateSigningRequestStatusUpdate)
	ValidateCertificateSigningRequestApprovalUpdate = onUpdate[*certificatesv1.CertificateSigningRequest](validation.ValidateCertificateSigningRequestApprovalUpdate)

	ValidateClusterTrustBundleUpdate    = onUpdate[*certificatesv1.ClusterTrustBundle](validation.ValidateClusterTrustBundleUpdate)
	ValidatePodCertificateRequest       = onCreate[*certificatesv1.PodCertificateRequest](validation.ValidatePodCertificateRequestCreate)
	ValidatePodCertificateRequestUpdate = onUpdate[*certificatesv1.PodCertificateRequest](validation.ValidatePodCertificateRequestUpdate)
)

// ValidateClusterTrustBundle says what is wrong with a new bundle.
func ValidateClusterTrustBundle(_ context.Context, b *certificatesv1.ClusterTrustBundle) field.ErrorList {
	return validation.ValidateClusterTrustBundle(internal[*certificates.ClusterTrustBundle](b), validation.ValidateClusterTrustBundleOptions{})
}

// ValidatePodCertificateRequestStatusUpdate says what is wrong with what a signer
// answers. A certificate that is not valid now is.
func ValidatePodCertificateRequestStatusUpdate(_ context.Context, r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
	return validation.ValidatePodCertificateRequestStatusUpdate(internal[*certificates.PodCertificateRequest](r), internal[*certificates.PodCertificateRequest](old), clock.RealClock{})
}
