package resource

import (
	"context"
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// ResourceClaims ask for devices; their status says which ones they were given.
var ResourceClaims = &Kind{
	Spec:                store.ResourceClaims,
	Singular:            "resourceclaim",
	ReturnDeletedObject: true,
	Strategy: strategy(store.ResourceClaims, "", Rules[*resourcev1.ResourceClaim]{
		PrepareForCreate: func(_ context.Context, claim *resourcev1.ResourceClaim) {
			claim.Status = resourcev1.ResourceClaimStatus{}
			kube.DropDisabledClaimFields(&claim.Spec, nil)
		},
		Validate: kube.ValidateResourceClaim,
		PrepareForUpdate: func(_ context.Context, claim, old *resourcev1.ResourceClaim) {
			claim.Status = old.Status
			kube.DropDisabledClaimFields(&claim.Spec, &old.Spec)
		},
		ValidateUpdate: kube.ValidateResourceClaimUpdate,
		Paths:          kube.DevicePaths,
	}),
	Subresources: []*Subresource{status(store.ResourceClaims, Rules[*resourcev1.ResourceClaim]{
		PrepareForUpdate: func(_ context.Context, claim, old *resourcev1.ResourceClaim) {
			claim.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&claim.ObjectMeta, &old.ObjectMeta)
			kube.DropDisabledClaimStatusFields(&claim.Status, &old.Status)
			forgetReturned(&claim.Status, &old.Status)
		},
		ValidateUpdate: kube.ValidateResourceClaimStatusUpdate,
		Paths:          kube.DevicePaths,
	})},
}

// ResourceClaimTemplates are claims that are made for each pod.
var ResourceClaimTemplates = &Kind{
	Spec:                store.ResourceClaimTemplates,
	Singular:            "resourceclaimtemplate",
	ReturnDeletedObject: true,
	Strategy: strategy(store.ResourceClaimTemplates, "", Rules[*resourcev1.ResourceClaimTemplate]{
		PrepareForCreate: func(_ context.Context, template *resourcev1.ResourceClaimTemplate) {
			kube.DropDisabledClaimFields(&template.Spec.Spec, nil)
		},
		Validate: kube.ValidateResourceClaimTemplate,
		PrepareForUpdate: func(_ context.Context, template, old *resourcev1.ResourceClaimTemplate) {
			kube.DropDisabledClaimFields(&template.Spec.Spec, &old.Spec.Spec)
		},
		ValidateUpdate: func(ctx context.Context, template, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
			return append(kube.ValidateResourceClaimTemplate(ctx, template), kube.ValidateResourceClaimTemplateUpdate(ctx, template, old)...)
		},
		Paths: kube.DevicePaths,
	}),
}

// share is a device, or the share of one that several claims have been given.
type share struct {
	driver, pool, device string
	id                   types.UID // empty for a whole device
}

// forgetReturned drops what drivers say of devices that the claim gives back
// with this update.
func forgetReturned(status, old *resourcev1.ResourceClaimStatus) {
	allocated := func(s *resourcev1.ResourceClaimStatus) map[share]bool {
		shares := map[share]bool{}
		if s.Allocation == nil {
			return shares
		}
		for _, r := range s.Allocation.Devices.Results {
			of := share{driver: r.Driver, pool: r.Pool, device: r.Device}
			if r.ShareID != nil {
				of.id = *r.ShareID
			}
			shares[of] = true
		}
		return shares
	}
	before, after := allocated(old), allocated(status)
	status.Devices = slices.DeleteFunc(status.Devices, func(d resourcev1.AllocatedDeviceStatus) bool {
		of := share{driver: d.Driver, pool: d.Pool, device: d.Device}
		if d.ShareID != nil {
			of.id = types.UID(*d.ShareID)
		}
		return before[of] && !after[of]
	})
	if len(status.Devices) == 0 {
		status.Devices = nil
	}
}
