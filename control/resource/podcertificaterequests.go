package resource

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// PodCertificateRequests ask a signer for a pod's certificate. They are answered
// in their status, by who may sign for that signer.
var PodCertificateRequests = &Kind{
	Spec:     store.PodCertificateRequests,
	Singular: "podcertificaterequest",
	Strategy: strategy(store.PodCertificateRequests, "", Rules[*certificatesv1.PodCertificateRequest]{
		PrepareForCreate: func(_ context.Context, r *certificatesv1.PodCertificateRequest) {
			r.Status = certificatesv1.PodCertificateRequestStatus{}
		},
		Validate:         kube.ValidatePodCertificateRequest,
		PrepareForUpdate: func(_ context.Context, r, old *certificatesv1.PodCertificateRequest) { r.Status = old.Status },
		ValidateUpdate:   kube.ValidatePodCertificateRequestUpdate,
		Conditional:      true,
	}),
	Subresources: []*Subresource{status(store.PodCertificateRequests, Rules[*certificatesv1.PodCertificateRequest]{
		PrepareForUpdate: func(_ context.Context, r, old *certificatesv1.PodCertificateRequest) {
			r.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&r.ObjectMeta, &old.ObjectMeta)
		},
		ValidateUpdate: kube.ValidatePodCertificateRequestStatusUpdate,
		Conditional:    true,
	})},
}
