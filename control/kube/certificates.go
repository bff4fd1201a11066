package kube

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	"k8s.io/kubernetes/pkg/apis/certificates/validation"
)

// Upstream's rules for certificate signing requests, as they are.
var (
	ValidateCertificateSigningRequest               = onCreate[*certificatesv1.CertificateSigningRequest](validation.ValidateCertificateSigningRequestCreate)
	ValidateCertificateSigningRequestUpdate         = onUpdate[*certificatesv1.CertificateSigningRequest](validation.ValidateCertificateSigningRequestUpdate)
	ValidateCertificateSigningRequestStatusUpdate   = onUpdate[*certificatesv1.CertificateSigningRequest](validation.ValidateCertificateSigningRequestStatusUpdate)
	ValidateCertificateSigningRequestApprovalUpdate = onUpdate[*certificatesv1.CertificateSigningRequest](validation.ValidateCertificateSigningRequestApprovalUpdate)
)
