package admission

import (
	"context"
	"slices"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// storageProtection gives volumes, claims and attributes classes the finalizers
// that keep them while they are used. A controller takes them off.
type storageProtection struct{ mutating }

func (storageProtection) Admit(_ context.Context, a *resource.Attributes) error {
	if a.Operation != resource.Create || a.Subresource != "" {
		return nil
	}
	var finalizer string
	switch a.Kind {
	case resource.PersistentVolumeClaims:
		finalizer = resource.ClaimProtection
	case resource.PersistentVolumes:
		finalizer = resource.VolumeProtection
	case resource.VolumeAttributesClasses:
		finalizer = resource.AttributesClassProtection
	default:
		return nil
	}
	if obj := a.Object.(store.Object); !slices.Contains(obj.GetFinalizers(), finalizer) {
		obj.SetFinalizers(append(slices.Clone(obj.GetFinalizers()), finalizer))
	}
	return nil
}
