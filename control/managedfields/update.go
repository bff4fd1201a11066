package managedfields

import (
	"cmp"
	"reflect"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/musterhq/muster/control/kube"
)

// updatersMax is how many managers of updates an object remembers, as upstream.
// Beyond that upstream merges the oldest.
const updatersMax = 10

// stripped are fields that nobody owns.
var stripped = newSet(fieldpath.NewSet(
	fieldpath.MakePathOrDie("metadata"),
	fieldpath.MakePathOrDie("metadata", "name"),
	fieldpath.MakePathOrDie("metadata", "namespace"),
	fieldpath.MakePathOrDie("metadata", "creationTimestamp"),
	fieldpath.MakePathOrDie("metadata", "selfLink"),
	fieldpath.MakePathOrDie("metadata", "uid"),
	fieldpath.MakePathOrDie("metadata", "clusterName"),
	fieldpath.MakePathOrDie("metadata", "generation"),
	fieldpath.MakePathOrDie("metadata", "resourceVersion"),
))

// updater does what upstream's field manager does for updates, for the usual
// case, at a tenth of the cost: objects and their managers are of one version,
// and nothing that a client sent has to be made sense of. It compares the Go
// values themselves, without checking them against the schema first, and sets
// of fields stay text.
type updater struct {
	version, kind, subresource string
	reset                      set
	typ                        reflect.Type
	// shape is all of the object, compared what a write through this path can set.
	shape, compared *shape
}

// newUpdater returns nil for a kind without a schema.
func newUpdater(kind schema.GroupVersionKind, subresource string, reset set) *updater {
	obj, err := kube.Scheme.New(kind)
	if err != nil {
		return nil
	}
	obj.GetObjectKind().SetGroupVersionKind(kind)
	like, err := Converter(kind).ObjectToTyped(obj)
	if err != nil {
		return nil
	}
	s := shapeOf(reflect.TypeOf(obj).Elem(), like)
	return &updater{
		version: kind.GroupVersion().String(), kind: kind.Kind, subresource: subresource, reset: reset,
		typ: reflect.TypeOf(obj), shape: s, compared: s.leaving(reset),
	}
}

// owned is an entry of managedFields on its way.
type owned struct {
	entry  metav1.ManagedFieldsEntry
	fields set
	// text is out of date.
	changed bool
}

// update sets obj's managed fields, or says that this case is upstream's.
func (u *updater) update(live, obj runtime.Object, manager string, now time.Time) bool {
	if reflect.TypeOf(live) != u.typ || reflect.TypeOf(obj) != u.typ {
		return false
	}
	to := obj.(metav1.Object)
	memory, giveBack := borrow()
	defer giveBack()
	managers, ok := u.managers(live.(metav1.Object).GetManagedFields(), to.GetManagedFields(), manager, memory)
	if !ok {
		return false
	}
	c := comparison{slab: memory}
	found := c.compare(u.compared, reflect.ValueOf(live).Elem(), reflect.ValueOf(obj).Elem())
	if c.gaveUp {
		return false
	}
	sets, removes := found.setsBelow.without(u.reset), found.takesBelow.without(u.reset)
	for i := range managers {
		m := &managers[i]
		left := m.fields.minus(sets).minus(removes)
		m.changed = len(left) != len(m.fields) || len(left) > 0 && &left[0] != &m.fields[0]
		m.fields = left
	}
	if gained := sets.minus(stripped); len(gained) > 0 {
		own := slices.IndexFunc(managers, func(m owned) bool { return u.is(&m.entry, manager) })
		if own < 0 {
			own = len(managers)
			managers = append(managers, owned{entry: metav1.ManagedFieldsEntry{
				Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: u.version, Subresource: u.subresource, FieldsType: "FieldsV1",
			}})
		}
		m := &managers[own]
		m.fields, m.changed, m.entry.Time = m.fields.with(gained), true, &metav1.Time{Time: now.UTC()}
	}
	to.SetManagedFields(entries(managers))
	return true
}

func (u *updater) differ(a, b runtime.Object) bool {
	if reflect.TypeOf(a) != u.typ || reflect.TypeOf(b) != u.typ {
		return false
	}
	memory, giveBack := borrow()
	defer giveBack()
	c := comparison{slab: memory}
	found := c.compare(u.compared, reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem())
	return !c.gaveUp && !found.none()
}

// managers are those that the object begins with: live's, or those that the
// client sent back, if they are live's.
func (u *updater) managers(live, sent []metav1.ManagedFieldsEntry, manager string, memory *slab) ([]owned, bool) {
	from := live
	if sent != nil && u.subresource == "" {
		if len(sent) == 0 {
			return nil, false // they are to be forgotten
		}
		for i := range sent {
			if !slices.ContainsFunc(live, func(e metav1.ManagedFieldsEntry) bool { return same(&e, &sent[i]) }) {
				return nil, false
			}
		}
		from = sent
	}
	managers := make([]owned, 0, len(from)+1)
	updaters := 1
	for _, e := range from {
		if e.APIVersion != u.version || e.FieldsType != "FieldsV1" || e.FieldsV1 == nil {
			return nil, false
		}
		if e.Operation == metav1.ManagedFieldsOperationUpdate && !u.is(&e, manager) {
			updaters++
		}
		fields, ok := parse(e.FieldsV1.GetRawString(), memory)
		if !ok || !u.shape.fits(fields) {
			return nil, false
		}
		managers = append(managers, owned{entry: e, fields: fields})
	}
	return managers, updaters <= updatersMax
}

// is says that an entry is the one of updates by manager.
func (u *updater) is(e *metav1.ManagedFieldsEntry, manager string) bool {
	return e.Manager == manager && e.Operation == metav1.ManagedFieldsOperationUpdate && e.Subresource == u.subresource && e.APIVersion == u.version
}

func same(a, b *metav1.ManagedFieldsEntry) bool {
	return a.Manager == b.Manager && a.Operation == b.Operation && a.APIVersion == b.APIVersion && a.Subresource == b.Subresource &&
		a.FieldsType == b.FieldsType && a.Time.Equal(b.Time) && a.FieldsV1 != nil && b.FieldsV1 != nil && a.FieldsV1.Equal(*b.FieldsV1)
}

// entries are managers in upstream's order, without those that own nothing.
func entries(managers []owned) []metav1.ManagedFieldsEntry {
	var list []metav1.ManagedFieldsEntry
	for _, m := range managers {
		if len(m.fields) == 0 {
			continue
		}
		if m.changed {
			m.entry.FieldsV1 = &metav1.FieldsV1{}
			m.entry.FieldsV1.SetRawBytes(m.fields.appendTo(make([]byte, 0, 1024)))
		}
		list = append(list, m.entry)
	}
	slices.SortFunc(list, func(p, q metav1.ManagedFieldsEntry) int {
		return cmp.Or(cmp.Compare(p.Operation, q.Operation), cmp.Compare(seconds(p.Time), seconds(q.Time)),
			cmp.Compare(p.Manager, q.Manager), cmp.Compare(p.APIVersion, q.APIVersion), cmp.Compare(p.Subresource, q.Subresource))
	})
	return list
}

func seconds(t *metav1.Time) int64 {
	if t == nil {
		return 0
	}
	return t.Unix()
}

// fits says that no path goes into what is owned as a whole: a set from a time
// when the schema was different has to be brought up to date.
func (s *shape) fits(fields set) bool {
	for _, i := range fields {
		if len(i.below) == 0 {
			continue
		}
		switch s.form {
		case record:
			n, ok := slices.BinarySearchFunc(s.fields, i.element, func(f field, name string) int { return cmp.Compare(f.element, name) })
			if !ok || !s.fields[n].shape.fits(i.below) {
				return false
			}
		case dictionary, keyed:
			if !s.items.fits(i.below) {
				return false
			}
		default:
			return false
		}
	}
	return true
}
