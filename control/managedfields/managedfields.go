// Package managedfields keeps metadata.managedFields: which manager set which
// field of an object, by updates and by server-side apply. When a write counts,
// and what it is called, is package resource's business.
//
// The rules are Kubernetes' own, and so is the code that applies a
// configuration (apimachinery's field managers over structured-merge-diff).
// Updates, which are most writes, have a quick way to the same bytes; what it does
// not know goes upstream's.
package managedfields

import (
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/musterhq/muster/control/kube"
)

// FieldManager keeps the managed fields of one kind and version, for writes of
// the object itself or through one of its subresources. It may be used from any
// goroutine. Schemas are read when the first write needs them.
type FieldManager struct {
	upstream func() *managedfields.FieldManager
	// quick gives nil where only upstream's way is known.
	quick func() *updater
}

// Reset is what a path does not let its user change: nobody comes to own it
// through that path. Except are paths like "metadata.labels", with all that is
// below; or Only lets just some through.
type Reset struct {
	Except []string
	Only   fieldpath.Filter
}

// New returns the field manager of a kind that is built in.
func New(kind schema.GroupVersionKind, subresource string, reset Reset) *FieldManager {
	m := &FieldManager{upstream: sync.OnceValue(func() *managedfields.FieldManager { return upstream(Converter(kind), kind, subresource, reset) })}
	m.quick = sync.OnceValue(func() *updater {
		if reset.Only != nil {
			return nil
		}
		return newUpdater(kind, subresource, newSet(reset.paths()))
	})
	return m
}

// upstream is apimachinery's field manager of a kind.
func upstream(converter managedfields.TypeConverter, kind schema.GroupVersionKind, subresource string, reset Reset) *managedfields.FieldManager {
	filter := reset.Only
	if filter == nil {
		filter = fieldpath.NewExcludeSetFilter(reset.paths())
	}
	filters := map[fieldpath.APIVersion]fieldpath.Filter{}
	for _, version := range append(kube.Scheme.PrioritizedVersionsForGroup(kind.Group), kind.GroupVersion()) {
		filters[fieldpath.APIVersion(version.String())] = filter
	}
	m, err := managedfields.NewDefaultFieldManager(converter, versions{runtime.UnsafeObjectConvertor(kube.Scheme)},
		kube.Scheme, kube.Scheme, kind, kind.GroupVersion(), subresource, filters)
	if err != nil {
		panic("managedfields: " + err.Error()) // only ever for want of a converter
	}
	return m
}

func (r Reset) paths() *fieldpath.Set {
	except := fieldpath.NewSet()
	for _, path := range r.Except {
		var elements []any
		for name := range strings.SplitSeq(path, ".") {
			elements = append(elements, name)
		}
		except.Insert(fieldpath.MakePathOrDie(elements...))
	}
	return except
}

// UpdateNoErrors gives obj the managed fields that it has after it replaced live
// in manager's name; live has no uid if obj is created. Should that fail, they
// stay as they were. obj may carry the managed fields that a client sent: they
// count instead of live's, unless they make no sense. Only obj is changed.
func (m *FieldManager) UpdateNoErrors(live, obj runtime.Object, manager string) runtime.Object {
	if untracked(live, obj) {
		obj.(metav1.Object).SetManagedFields(nil)
		return obj
	}
	if quick := m.quick(); quick != nil && quick.update(live, obj, manager, time.Now()) {
		return obj
	}
	defer restoreKinds(live, obj)()
	return m.upstream().UpdateNoErrors(live, obj, manager)
}

// Apply makes the object that live becomes when manager applies config, an
// unstructured object: live itself if nothing changes. A conflict with other
// managers, if not forced, is a Conflict with a cause for each field.
func (m *FieldManager) Apply(live, config runtime.Object, manager string, force bool) (runtime.Object, error) {
	if quick, c := m.quick(), config.(runtime.Unstructured); quick != nil && quick.applied(live, c.UnstructuredContent(), manager) {
		return live, nil
	}
	defer restoreKinds(live)()
	return m.upstream().Apply(live, config, manager, force)
}

// Differ says that two objects differ in something that can be set through this
// path. False says that they may be the same.
func (m *FieldManager) Differ(a, b runtime.Object) bool {
	quick := m.quick()
	return quick != nil && quick.differ(a, b)
}

// untracked says that nobody's fields are recorded in an object that exists.
// They are from its first apply on, which counts what is there as one manager's.
func untracked(live, obj runtime.Object) bool {
	l, isObject := live.(metav1.Object)
	return isObject && l.GetUID() != "" && len(l.GetManagedFields()) == 0 && len(obj.(metav1.Object).GetManagedFields()) == 0
}

// restoreKinds returns what undoes that conversion names the kind in an object:
// stored ones don't, and are compared.
func restoreKinds(objects ...runtime.Object) func() {
	kinds := make([]schema.GroupVersionKind, len(objects))
	for i, o := range objects {
		kinds[i] = o.GetObjectKind().GroupVersionKind()
	}
	return func() {
		for i, o := range objects {
			o.GetObjectKind().SetGroupVersionKind(kinds[i])
		}
	}
}

// versions converts between the versions of a kind through its internal form, as
// the scheme alone would not.
type versions struct{ runtime.ObjectConvertor }

func (v versions) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	version, ok := target.(schema.GroupVersion)
	from := in.GetObjectKind().GroupVersionKind()
	if !ok || from.Version == "" || from.GroupVersion() == version {
		return v.ObjectConvertor.ConvertToVersion(in, target)
	}
	internal, err := v.ObjectConvertor.ConvertToVersion(in, runtime.InternalGroupVersioner)
	if err != nil {
		return nil, err
	}
	return v.ObjectConvertor.ConvertToVersion(internal, target)
}
