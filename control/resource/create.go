package resource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// CreateOptions say how to create.
type CreateOptions struct {
	// DryRun goes every step of the way but the last.
	DryRun bool
	// FieldManager is who the fields belong to. Empty: nobody; the control plane
	// does not record what it makes itself.
	FieldManager string
	// FieldValidation is what the request said of unknown fields. It was seen to;
	// admission may want to know.
	FieldValidation string
}

// generatedNames is how many names are tried for an object that leaves its name
// to us: with eight, a million objects under one prefix meet a taken name eight
// times in a row with a probability of 0.1 %.
const generatedNames = 8

// Create stores a new object of kind in namespace ns, which is empty for kinds
// that have none. obj is Create's from here on; the result is the object as
// stored. ctx carries the user (request.WithUser) and takes warnings
// (warning.AddWarning).
func (r *Registry) Create(ctx context.Context, kind *Kind, ns string, obj store.Object, options CreateOptions) (store.Object, error) {
	ctx = genericrequest.WithNamespace(ctx, ns)
	if obj.GetResourceVersion() != "" && obj.GetResourceVersion() != "0" {
		return nil, errVersionOnCreate()
	}
	obj.SetResourceVersion("")
	rest.WipeObjectMetaSystemFields(obj)
	if err := rest.EnsureObjectNamespaceMatchesRequestNamespace(rest.ExpectedNamespaceForScope(ns, kind.Namespaced()), obj); err != nil {
		return nil, err
	}
	if err := r.complete(ctx, kind, obj); err != nil {
		return nil, err
	}
	obj = kind.manageFields("", kind.Spec.New(), obj, options.FieldManager)
	attributes := &Attributes{
		Operation: Create, Kind: kind, Namespace: ns, Name: obj.GetName(),
		Object: obj, DryRun: options.DryRun, User: requester(ctx),
		FieldManager: options.FieldManager, FieldValidation: options.FieldValidation,
	}
	if err := r.admit(ctx, attributes); err != nil {
		return nil, err
	}
	if obj.GetGenerateName() == "" || obj.GetName() != "" {
		return r.insert(ctx, kind, obj, attributes)
	}
	for try := 1; ; try++ {
		created, err := r.insert(ctx, kind, obj.DeepCopyObject().(store.Object), attributes)
		if err == nil || !apierrors.IsAlreadyExists(err) || try == generatedNames {
			return created, err
		}
	}
}

// complete does to a decoded object what upstream's decoding does, and drops
// owners named twice.
func (r *Registry) complete(ctx context.Context, kind *Kind, obj store.Object) error {
	kind.Default(obj)
	if err := kube.Normalize(obj); err != nil {
		name := kind.Spec.Kind.Kind
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", name, kind.Spec.Kind.Version, name, err))
	}
	dropRepeatedOwners(ctx, obj)
	return nil
}

// insert is a create after admission's first word: identity, companions, the
// kind's rules, admission's last word, the store.
func (r *Registry) insert(ctx context.Context, kind *Kind, obj store.Object, attributes *Attributes) (store.Object, error) {
	rest.FillObjectMetaSystemFields(obj)
	generated := obj.GetGenerateName() != "" && obj.GetName() == ""
	if generated {
		obj.SetName(kind.Strategy.GenerateName(obj.GetGenerateName()))
	}
	for try := 1; ; try++ {
		completed, beside, err := r.accompanyNew(ctx, kind, obj)
		if err != nil {
			return nil, err
		}
		created, err := r.insertWith(ctx, kind, completed, attributes, beside, generated)
		switch {
		case errors.Is(err, errRaced) && try < updateTries:
			// Somebody else has what this object was to get.
			continue
		case errors.Is(err, errRaced):
			return nil, kind.apiError(store.ErrConflict, obj.GetName())
		}
		return created, err
	}
}

// insertWith is one try with companions that may turn out to be taken (errRaced).
func (r *Registry) insertWith(ctx context.Context, kind *Kind, obj store.Object, attributes *Attributes, beside []store.Write, generated bool) (store.Object, error) {
	if err := rest.BeforeCreate(kind.Strategy, ctx, obj); err != nil {
		return nil, err
	}
	if r.pretends(attributes.DryRun) {
		return r.pretend(ctx, kind, obj, attributes, generated)
	}
	for try := 1; ; try++ {
		final := *attributes
		final.Name, final.Object = obj.GetName(), obj
		if err := r.admission.Validate(ctx, &final); err != nil {
			return nil, err
		}
		if kind.Schema != nil {
			demand, err := kind.Schema.Demand(r.store, obj)
			if err != nil {
				final.tried()
				return nil, err
			}
			final.Demands = append(final.Demands, demand)
		}
		created, err := r.put(ctx, kind, obj, slices.Concat(final.Demands, beside))
		final.tried()
		switch {
		case outrun(err, 0, len(final.Demands)) && try < updateTries:
			// What admission relied on has changed: it must look again, and at
			// the state that this attempt has brought here.
			continue
		case outrun(err, len(final.Demands), len(final.Demands)+len(beside)):
			return nil, errRaced
		case errors.Is(err, store.ErrExists):
			return nil, r.taken(ctx, kind, obj, generated)
		}
		return created, kind.apiError(err, obj.GetName())
	}
}

// put stores a new object with all that goes with it, or nothing.
func (r *Registry) put(ctx context.Context, kind *Kind, obj store.Object, beside []store.Write) (store.Object, error) {
	if len(beside) == 0 {
		return r.store.Table(kind.Spec).Create(ctx, obj)
	}
	objects, err := r.store.Txn(ctx, append(slices.Clone(beside), store.Write{Verb: store.Create, Spec: kind.Spec, Object: obj}))
	if err != nil {
		return nil, err
	}
	return objects[len(beside)], nil
}

// pretend is the end of a create that is only tried.
func (r *Registry) pretend(ctx context.Context, kind *Kind, obj store.Object, attributes *Attributes, generated bool) (store.Object, error) {
	final := *attributes
	final.Name, final.Object = obj.GetName(), obj
	if err := r.admission.Validate(ctx, &final); err != nil {
		return nil, err
	}
	if err := r.store.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	_, _, err := r.store.Table(kind.Spec).GetItem(obj.GetNamespace(), obj.GetName())
	switch {
	case err == nil:
		return nil, r.taken(ctx, kind, obj, generated)
	case errors.Is(err, store.ErrNotFound):
		return store.AsStored(kind.Spec, obj)
	}
	return nil, kind.apiError(err, obj.GetName())
}

// taken is the answer to a create of a name that exists. A user who chose the
// name and meets one that is on its way out should know.
func (r *Registry) taken(ctx context.Context, kind *Kind, obj store.Object, generated bool) error {
	err := apierrors.NewAlreadyExists(kind.Qualified(), obj.GetName())
	if generated {
		err = apierrors.NewGenerateNameConflict(kind.Qualified(), obj.GetName(), 1)
	}
	if there, e := r.store.Table(kind.Spec).Get(ctx, obj.GetNamespace(), obj.GetName()); e == nil && there.GetDeletionTimestamp() != nil {
		err.ErrStatus.Message = "object is being deleted: " + err.ErrStatus.Message
	}
	return err
}

// dropRepeatedOwners removes references that say the same twice.
func dropRepeatedOwners(ctx context.Context, obj store.Object) {
	owners := obj.GetOwnerReferences()
	if len(owners) < 2 {
		return
	}
	var kept []metav1.OwnerReference
	var repeated []string
next:
	for _, owner := range owners {
		for _, k := range kept {
			if k.UID == owner.UID && apiequality.Semantic.DeepEqual(k, owner) {
				repeated = append(repeated, string(owner.UID))
				continue next
			}
		}
		kept = append(kept, owner)
	}
	if len(repeated) == 0 {
		return
	}
	obj.SetOwnerReferences(kept)
	warning.AddWarning(ctx, "", fmt.Sprintf(".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, "+
		"and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: %v", strings.Join(repeated, ", ")))
}
