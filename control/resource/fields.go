package resource

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	upstream "k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/warning"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/musterhq/muster/control/managedfields"
	"github.com/musterhq/muster/control/store"
)

// FieldManager keeps metadata.managedFields of one kind's objects, for writes of
// the object or through one subresource. Upstream's field managers are such.
type FieldManager interface {
	// UpdateNoErrors gives obj the managed fields that it has after it replaced
	// live in manager's name. live has no uid if obj is created.
	UpdateNoErrors(live, obj runtime.Object, manager string) runtime.Object
	// Apply makes what live becomes when manager applies config, which is
	// unstructured.
	Apply(live, config runtime.Object, manager string, force bool) (runtime.Object, error)
}

// controlPlane is who an update without a manager is by. Upstream's controllers
// have this name, and tools are told to overlook what they own.
const controlPlane = "kube-controller-manager"

// builtin are the field managers of kinds that are built in, by managedBy.
var builtin sync.Map

type managedBy struct {
	kind        schema.GroupVersionKind
	subresource string
}

// fieldManager keeps the managed fields for writes through subresource, "" for
// the object itself. Nil: for this kind nobody does.
func (k *Kind) fieldManager(subresource string) FieldManager {
	switch {
	case k.FieldManager != nil:
		return k.FieldManager(subresource)
	case k.Schema != nil:
		return nil
	}
	key := managedBy{k.Spec.Kind, subresource}
	if m, ok := builtin.Load(key); ok {
		return m.(FieldManager)
	}
	m, _ := builtin.LoadOrStore(key, managedfields.New(k.Spec.Kind, subresource, k.resetFields(subresource)))
	return m.(FieldManager)
}

// Apply makes the object that current becomes when manager applies config: a
// Change for Update, with FieldsManaged and ForceAllowCreate.
func (k *Kind) Apply(subresource string, current store.Object, config runtime.Object, manager string, force bool) (store.Object, error) {
	m := k.fieldManager(subresource)
	if m == nil {
		return nil, apierrors.NewGenericServerResponse(http.StatusUnsupportedMediaType, "apply", k.Spec.Resource, k.Spec.Kind.Kind, "the kind has no schema to apply by", 0, false)
	}
	obj, err := m.Apply(current, config.DeepCopyObject(), manager, force)
	if err != nil {
		return nil, applyError(err)
	}
	applied := obj.(store.Object)
	if applied.GetUID() != "" && current.GetUID() == "" {
		return nil, apierrors.NewConflict(k.Spec.Resource, applied.GetName(),
			fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", applied.GetUID()))
	}
	return applied, nil
}

// applyError is upstream's answer to a configuration that does not fit the
// kind's schema.
func applyError(err error) error {
	if _, isStatus := err.(apierrors.APIStatus); isStatus {
		return err
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error()}}
}

// manageFields gives obj its managed fields. An object that the control plane
// makes in nobody's name has none: its first apply counts what is there as one
// manager's, as upstream does.
func (k *Kind) manageFields(subresource string, live, obj store.Object, manager string) store.Object {
	if manager == "" {
		if live.GetUID() == "" {
			obj.SetManagedFields(nil)
			return obj
		}
		manager = controlPlane
	}
	m := k.fieldManager(subresource)
	if m == nil {
		obj.SetManagedFields(nil)
		return obj
	}
	return m.UpdateNoErrors(live, obj, manager).(store.Object)
}

// admit is admission's first word. managedFields that it leaves in a state that
// makes no sense are put back.
func (r *Registry) admit(ctx context.Context, a *Attributes) error {
	obj, ok := a.Object.(metav1.Object)
	if !ok {
		return r.admission.Admit(ctx, a)
	}
	before := obj.GetManagedFields()
	if err := r.admission.Admit(ctx, a); err != nil {
		return err
	}
	after := obj.GetManagedFields()
	if len(before) == len(after) && (len(after) == 0 || &before[0] == &after[0]) {
		return nil
	}
	if err := upstream.ValidateManagedFields(after); err != nil {
		obj.SetManagedFields(before)
		warning.AddWarning(ctx, "", fmt.Sprintf(".metadata.managedFields was in an invalid state after admission; "+
			"this could be caused by an outdated mutating admission controller; please fix your requests: %v", err))
	}
	return nil
}

// keepTimes takes the times of managed fields from old where they are all that
// an update through subresource would change, so that it writes nothing.
func (k *Kind) keepTimes(subresource string, obj, old store.Object) {
	now, was := obj.GetManagedFields(), old.GetManagedFields()
	if len(now) == 0 || len(now) != len(was) {
		return
	}
	kept, changed := slices.Clone(now), false
	for i := range kept {
		changed = changed || !now[i].Time.Equal(was[i].Time)
		kept[i].Time = was[i].Time
	}
	if !changed || !apiequality.Semantic.DeepEqual(kept, was) {
		return
	}
	// Mostly something did change, which can be found out faster.
	if m, ok := k.fieldManager(subresource).(interface {
		Differ(a, b runtime.Object) bool
	}); ok && m.Differ(old, obj) {
		return
	}
	obj.SetManagedFields(kept)
	if !apiequality.Semantic.DeepEqual(obj, old) {
		obj.SetManagedFields(now)
	}
}

// resetFields are the fields that a write through subresource does not change,
// whatever it says. It is upstream's GetResetFields: the object's status is not
// its user's, and all but the status is not the status writer's.
func (k *Kind) resetFields(subresource string) managedfields.Reset {
	name := k.Spec.Resource.String()
	if subresource != "" {
		name += "/" + subresource
	}
	reset, known := resets[name]
	switch {
	case known:
		return reset
	case subresource == "status":
		return managedfields.Reset{Except: []string{"spec"}}
	case subresource == "" && k.Subresource("status") != nil:
		return managedfields.Reset{Except: []string{"status"}}
	}
	return managedfields.Reset{}
}

// resets are the paths whose reset fields are not as resetFields has them.
var resets = map[string]managedfields.Reset{
	"pods/status": except("spec", "metadata.deletionTimestamp", "metadata.ownerReferences"),
	"pods/ephemeralcontainers": only(
		fieldpath.MakePrefixMatcherOrDie("spec", "ephemeralContainers"),
	),
	"pods/resize": only(
		fieldpath.MakePrefixMatcherOrDie("spec", "containers", fieldpath.MatchAnyPathElement(), "resources"),
		fieldpath.MakePrefixMatcherOrDie("spec", "containers", fieldpath.MatchAnyPathElement(), "resizePolicy"),
		fieldpath.MakePrefixMatcherOrDie("spec", "initContainers", fieldpath.MatchAnyPathElement(), "resources"),
		fieldpath.MakePrefixMatcherOrDie("spec", "initContainers", fieldpath.MatchAnyPathElement(), "resizePolicy"),
	),
	"namespaces/finalize":                                             except("status"),
	"deployments.apps/status":                                         except("spec", "metadata.labels"),
	"certificatesigningrequests.certificates.k8s.io":                  except("spec", "status"),
	"certificatesigningrequests.certificates.k8s.io/status":           except("spec", "status.conditions"),
	"certificatesigningrequests.certificates.k8s.io/approval":         except("spec", "status.certificate"),
	"servicecidrs.networking.k8s.io/status":                           except("spec", "metadata"),
	"flowschemas.flowcontrol.apiserver.k8s.io/status":                 except("spec", "metadata"),
	"prioritylevelconfigurations.flowcontrol.apiserver.k8s.io/status": except("spec", "metadata"),
	"volumeattachments.storage.k8s.io/status":                         except("spec", "metadata"),
	"csinodes.storage.k8s.io/status":                                  except("spec", "metadata"),
	"validatingadmissionpolicies.admissionregistration.k8s.io/status": except("spec", "metadata"),
	"apiservices.apiregistration.k8s.io/status":                       except("spec", "metadata"),
}

func except(paths ...string) managedfields.Reset { return managedfields.Reset{Except: paths} }

func only(matchers ...*fieldpath.SetMatcher) managedfields.Reset {
	return managedfields.Reset{Only: fieldpath.NewIncludeMatcherFilter(matchers...)}
}
