package resource

import (
	"errors"
	"fmt"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/musterhq/muster/control/store"
)

// errModified is upstream's wording for a lost race: clients match on it.
var errModified = errors.New("the object has been modified; please apply your changes to the latest version and try again")

// errNoRevision is a fault of ours: every stored object has one.
var errNoRevision = errors.New("stored object has no resourceVersion")

// Qualified is the resource as errors name it: in the group in which it was
// asked for, which is not always the one that it is stored in.
func (k *Kind) Qualified() schema.GroupResource {
	return schema.GroupResource{Group: k.Spec.Kind.Group, Resource: k.Spec.Resource.Resource}
}

// apiError words what the store found in Kubernetes' terms. What is not about
// the object (no quorum, outcome unknown) passes through.
func (k *Kind) apiError(err error, name string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		return apierrors.NewNotFound(k.Qualified(), name)
	case errors.Is(err, store.ErrExists):
		return apierrors.NewAlreadyExists(k.Qualified(), name)
	case errors.Is(err, store.ErrConflict):
		return apierrors.NewConflict(k.Qualified(), name, errModified)
	case errors.Is(err, store.ErrExpired):
		return apierrors.NewResourceExpired(err.Error())
	case errors.Is(err, store.ErrInvalid):
		return apierrors.NewBadRequest(err.Error())
	}
	return err
}

// errVersionOnCreate is the answer to a create that names a resourceVersion.
func errVersionOnCreate() error {
	return apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
}

// checkVersion holds the resourceVersion that an update names against the one
// that is stored.
func (k *Kind) checkVersion(name, named, stored string, conditional bool) error {
	path := field.NewPath("metadata", "resourceVersion")
	// Upstream names the resource where the kind should be.
	kind := schema.GroupKind{Group: k.Spec.Kind.Group, Kind: k.Spec.Resource.Resource}
	version := uint64(0)
	if named != "" {
		var err error
		if version, err = strconv.ParseUint(named, 10, 64); err != nil {
			return apierrors.NewInvalid(kind, name, field.ErrorList{field.Invalid(path, named, "must be an unsigned integer")})
		}
	}
	switch {
	case version == 0 && conditional:
		return apierrors.NewInvalid(kind, name, field.ErrorList{field.Invalid(path, version, "must be specified for an update")})
	case version != 0 && named != stored:
		return apierrors.NewConflict(k.Qualified(), name, errModified)
	}
	return nil
}

// checkUID holds a precondition against the stored object.
func (k *Kind) checkUID(name string, want *types.UID, stored types.UID) error {
	if want == nil || *want == stored {
		return nil
	}
	return apierrors.NewConflict(k.Qualified(), name,
		fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *want, stored)) //nolint:staticcheck // upstream's wording
}
