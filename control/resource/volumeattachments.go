package resource

import (
	"context"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// VolumeAttachments ask a driver to attach a volume to a node; what is asked
// for does not change.
var VolumeAttachments = &Kind{
	Spec:                store.VolumeAttachments,
	Singular:            "volumeattachment",
	ReturnDeletedObject: true,
	Strategy: strategy(store.VolumeAttachments, "", Rules[*storagev1.VolumeAttachment]{
		PrepareForCreate: func(_ context.Context, a *storagev1.VolumeAttachment) { a.Status = storagev1.VolumeAttachmentStatus{} },
		Validate:         kube.ValidateVolumeAttachment,
		PrepareForUpdate: func(_ context.Context, a, old *storagev1.VolumeAttachment) { a.Status = old.Status },
		ValidateUpdate:   kube.ValidateVolumeAttachmentUpdate,
		Conditional:      true,
	}),
	Subresources: []*Subresource{status(store.VolumeAttachments, Rules[*storagev1.VolumeAttachment]{
		PrepareForUpdate: func(_ context.Context, a, old *storagev1.VolumeAttachment) {
			a.Spec = old.Spec
			metav1.ResetObjectMetaForStatus(&a.ObjectMeta, &old.ObjectMeta)
			kube.DropDisabledAttachmentErrors(&a.Status, &old.Status)
		},
		ValidateUpdate: kube.ValidateVolumeAttachmentUpdate,
		Conditional:    true,
	})},
}
