package resource

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// CertificateSigningRequests say who asked, which the request itself cannot.
// Approving and signing are paths of their own: neither may do the other's part.
var CertificateSigningRequests = &Kind{
	Spec:       store.CertificateSigningRequests,
	Singular:   "certificatesigningrequest",
	ShortNames: []string{"csr"},
	Strategy: strategy(store.CertificateSigningRequests, "", Rules[*certificatesv1.CertificateSigningRequest]{
		PrepareForCreate: func(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) {
			nameRequester(ctx, &csr.Spec)
			csr.Status = certificatesv1.CertificateSigningRequestStatus{}
		},
		Validate: kube.ValidateCertificateSigningRequest,
		PrepareForUpdate: func(_ context.Context, csr, old *certificatesv1.CertificateSigningRequest) {
			csr.Spec, csr.Status = old.Spec, old.Status
		},
		ValidateUpdate: kube.ValidateCertificateSigningRequestUpdate,
	}),
	Subresources: []*Subresource{
		{
			Name: "approval", Kind: store.CertificateSigningRequests.Kind, Verbs: []string{"get", "patch", "update"},
			Strategy: strategy(store.CertificateSigningRequests, "approval", Rules[*certificatesv1.CertificateSigningRequest]{
				PrepareForUpdate: func(_ context.Context, csr, old *certificatesv1.CertificateSigningRequest) {
					dateConditions(csr, old)
					conditions := csr.Status.Conditions
					csr.Spec, csr.Status = old.Spec, old.Status
					csr.Status.Conditions = conditions
				},
				ValidateUpdate: kube.ValidateCertificateSigningRequestApprovalUpdate,
			}),
		},
		status(store.CertificateSigningRequests, Rules[*certificatesv1.CertificateSigningRequest]{
			PrepareForUpdate: func(_ context.Context, csr, old *certificatesv1.CertificateSigningRequest) {
				csr.Spec = old.Spec
				keepDecisions(csr, old, certificatesv1.CertificateApproved)
				keepDecisions(csr, old, certificatesv1.CertificateDenied)
				dateConditions(csr, old)
			},
			ValidateUpdate: kube.ValidateCertificateSigningRequestStatusUpdate,
		}),
	},
}

// nameRequester writes down who asks, whatever the request says.
func nameRequester(ctx context.Context, spec *certificatesv1.CertificateSigningRequestSpec) {
	spec.Username, spec.UID, spec.Groups, spec.Extra = "", "", nil, nil
	user := requester(ctx)
	if user == nil {
		return
	}
	spec.Username, spec.UID, spec.Groups = user.GetName(), user.GetUID(), user.GetGroups()
	for key, values := range user.GetExtra() {
		if spec.Extra == nil {
			spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		spec.Extra[key] = values
	}
}

// keepDecisions takes conditions of a type as they were. Where there are more
// or fewer than before, validation will say so.
func keepDecisions(csr, old *certificatesv1.CertificateSigningRequest, decision certificatesv1.RequestConditionType) {
	at := func(conditions []certificatesv1.CertificateSigningRequestCondition) (indexes []int) {
		for i, c := range conditions {
			if c.Type == decision {
				indexes = append(indexes, i)
			}
		}
		return indexes
	}
	now, before := at(csr.Status.Conditions), at(old.Status.Conditions)
	if len(now) != len(before) {
		return
	}
	for i := range now {
		csr.Status.Conditions[now[i]] = old.Status.Conditions[before[i]]
	}
}

// dateConditions fills in the times that the sender left out. A condition that
// says what it said before has not changed since.
func dateConditions(csr, old *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now()
	for i := range csr.Status.Conditions {
		c := &csr.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, o := range old.Status.Conditions {
			if o.Type == c.Type && o.Status == c.Status && !o.LastTransitionTime.IsZero() {
				c.LastTransitionTime = o.LastTransitionTime
				break
			}
		}
	}
}
