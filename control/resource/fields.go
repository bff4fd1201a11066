package resource

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	upstream "k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/warning"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/musterhq/muster/control/kube"
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
// the object itself.
func (k *Kind) fieldManager(subresource string) FieldManager {
	if k.FieldManager != nil {
		return k.FieldManager(subresource)
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
	obj, err := k.fieldManager(subresource).Apply(current, config.DeepCopyObject(), manager, force)
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
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: 500, Message: err.Error()}}
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
	return k.fieldManager(subresource).UpdateNoErrors(live, obj, manager).(store.Object)
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
// an update would change, so that it writes nothing.
func keepTimes(obj, old store.Object) {
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
	obj.SetManagedFields(kept)
	if !apiequality.Semantic.DeepEqual(obj, old) {
		obj.SetManagedFields(now)
	}
}

// resetFields are the fields that a write through subresource does not change
// whatever it says, by version. It is upstream's GetResetFields: the object's
// status is not its user's, and all but the status is not the status writer's.
func (k *Kind) resetFields(subresource string) map[fieldpath.APIVersion]fieldpath.Filter {
	filter := matchers[subresource]
	if filter == nil {
		name := k.Spec.Resource.String()
		if subresource != "" {
			name += "/" + subresource
		}
		paths, known := resets[name]
		switch {
		case known:
		case subresource == "status":
			paths = []string{"spec"}
		case subresource == "" && k.Subresource("status") != nil:
			paths = []string{"status"}
		default:
			return nil
		}
		set := fieldpath.NewSet()
		for _, path := range paths {
			var elements []any
			for name := range strings.SplitSeq(path, ".") {
				elements = append(elements, name)
			}
			set.Insert(fieldpath.MakePathOrDie(elements...))
		}
		filter = fieldpath.NewExcludeSetFilter(set)
	}
	filters := map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(k.Spec.Kind.GroupVersion().String()): filter}
	for _, version := range kube.Scheme.PrioritizedVersionsForGroup(k.Spec.Kind.Group) {
		filters[fieldpath.APIVersion(version.String())] = filter
	}
	return filters
}

// resets are the paths whose reset fields are not as resetFields has them.
var resets = map[string][]string{
	"pods/status":             {"spec", "metadata.deletionTimestamp", "metadata.ownerReferences"},
	"namespaces/finalize":     {"status"},
	"deployments.apps/status": {"spec", "metadata.labels"},
	"certificatesigningrequests.certificates.k8s.io":                  {"spec", "status"},
	"certificatesigningrequests.certificates.k8s.io/status":           {"spec", "status.conditions"},
	"certificatesigningrequests.certificates.k8s.io/approval":         {"spec", "status.certificate"},
	"servicecidrs.networking.k8s.io/status":                           {"spec", "metadata"},
	"flowschemas.flowcontrol.apiserver.k8s.io/status":                 {"spec", "metadata"},
	"prioritylevelconfigurations.flowcontrol.apiserver.k8s.io/status": {"spec", "metadata"},
	"volumeattachments.storage.k8s.io/status":                         {"spec", "metadata"},
	"validatingadmissionpolicies.admissionregistration.k8s.io/status": {"spec", "metadata"},
	"apiservices.apiregistration.k8s.io/status":                       {"spec", "metadata"},
}

// matchers are the pod's subresources through which only a few fields change.
var matchers = map[string]fieldpath.Filter{
	"ephemeralcontainers": fieldpath.NewIncludeMatcherFilter(
		fieldpath.MakePrefixMatcherOrDie("spec", "ephemeralContainers"),
	),
	"resize": fieldpath.NewIncludeMatcherFilter(
		fieldpath.MakePrefixMatcherOrDie("spec", "containers", fieldpath.MatchAnyPathElement(), "resources"),
		fieldpath.MakePrefixMatcherOrDie("spec", "containers", fieldpath.MatchAnyPathElement(), "resizePolicy"),
		fieldpath.MakePrefixMatcherOrDie("spec", "initContainers", fieldpath.MatchAnyPathElement(), "resources"),
		fieldpath.MakePrefixMatcherOrDie("spec", "initContainers", fieldpath.MatchAnyPathElement(), "resizePolicy"),
	),
}
