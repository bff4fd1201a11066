package scheduler

import (
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/controller"
)

// keepers is what pods without constraints of their own are spread by: the
// services that send to them and what keeps them.
type keepers struct {
	services map[string]map[string]labels.Set // selectors, by namespace and name
	sets     map[objectKey]*keeper
	// changes of services count per namespace, of sets all together.
	changes map[string]uint64
	known   map[defaultKey]*defaultRules
	// stale are namespaces where that has changed since the core last looked.
	stale map[string]struct{}
}

// keeper is what a controller of pods selects, made anew when that changes.
type keeper struct {
	selects labels.Selector
	// laid over what services select, where upstream does that; selects is nil
	over labels.Set
}

// defaultKey is what pods have in common that are spread alike by default.
type defaultKey struct {
	by    *spreadDefaults // profiles do not share what they make of them
	kin   *kin
	owner types.UID
	scope string
}

type defaultRules struct {
	rules   []spreadRule
	epoch   uint64
	changes uint64
	set     *keeper
}

func newKeepers() keepers {
	return keepers{
		services: make(map[string]map[string]labels.Set),
		sets:     make(map[objectKey]*keeper),
		changes:  make(map[string]uint64),
		known:    make(map[defaultKey]*defaultRules),
		stale:    make(map[string]struct{}),
	}
}

// setService takes over a service's selector; nil selects no pods.
func (k *keepers) setService(namespace, name string, selects map[string]string) {
	of := k.services[namespace]
	if old := of[name]; (old == nil) == (selects == nil) && labels.Equals(old, selects) {
		return
	}
	k.changes[namespace]++
	k.stale[namespace] = struct{}{}
	if selects == nil {
		delete(of, name)
		return
	}
	if of == nil {
		of = make(map[string]labels.Set)
		k.services[namespace] = of
	}
	of[name] = selects
}

// setSet takes over what a controller of pods selects; nil: it is gone.
func (k *keepers) setSet(key objectKey, set *keeper) {
	k.stale[key.namespace] = struct{}{}
	if set == nil {
		delete(k.sets, key)
	} else {
		k.sets[key] = set
	}
}

// selectorOf is upstream's DefaultSelector: the pod's services and its
// controller, all at once.
func (k *keepers) selectorOf(p *podInfo, set *keeper) labels.Selector {
	merged := labels.Set{}
	for _, selects := range k.services[p.pod.Namespace] {
		if selects.AsSelectorPreValidated().Matches(labels.Set(p.pod.Labels)) {
			merged = labels.Merge(merged, selects)
		}
	}
	if set != nil {
		merged = labels.Merge(merged, set.over)
	}
	selector := merged.AsSelector()
	if set != nil && set.selects != nil {
		if r, selectable := set.selects.Requirements(); selectable {
			selector = selector.Add(r...)
		}
	}
	return selector
}

// set finds what the pod's controller selects, nil for none that is known.
func (k *keepers) set(p *podInfo) *keeper {
	ref := metav1.GetControllerOfNoCopy(p.pod)
	if ref == nil {
		return nil
	}
	switch {
	case ref.Kind == "ReplicationController" && ref.APIVersion == corev1.SchemeGroupVersion.String():
	case (ref.Kind == "ReplicaSet" || ref.Kind == "StatefulSet") && ref.APIVersion == appsv1.SchemeGroupVersion.String():
	default:
		return nil
	}
	return k.sets[objectKey{ref.Kind, p.pod.Namespace, ref.Name}]
}

// follow has the box hear of what rules about other pods go by: namespaces,
// services, and what keeps pods. Most of their changes mean nothing here.
func (b *inbox) follow(caches *controller.Caches) {
	caches.Namespaces.OnChange(func(old, now *corev1.Namespace) {
		if old != nil && now != nil && labels.Equals(old.Labels, now.Labels) {
			return
		}
		name, set := nameOf(old, now), labels.Set(nil)
		if now != nil {
			set = now.Labels
		}
		b.other(objectKey{"Namespace", "", name.Name}, func(c *cluster) { c.index.setNamespace(name.Name, set) })
	})
	caches.Services.OnChange(func(old, now *corev1.Service) {
		if old != nil && now != nil && labels.Equals(old.Spec.Selector, now.Spec.Selector) {
			return
		}
		name, selects := nameOf(old, now), map[string]string(nil)
		if now != nil {
			selects = now.Spec.Selector
		}
		b.other(objectKey{"Service", name.Namespace, name.Name}, func(c *cluster) { c.keepers.setService(name.Namespace, name.Name, selects) })
	})
	caches.ReplicationControllers.OnChange(func(old, now *corev1.ReplicationController) {
		if old != nil && now != nil && labels.Equals(old.Spec.Selector, now.Spec.Selector) {
			return
		}
		b.set("ReplicationController", nameOf(old, now), controllerSelector(now))
	})
	caches.ReplicaSets.OnChange(func(old, now *appsv1.ReplicaSet) {
		if old == nil || now == nil || old.UID != now.UID { // the selector never changes
			b.set("ReplicaSet", nameOf(old, now), replicaSetSelector(now))
		}
	})
	caches.StatefulSets.OnChange(func(old, now *appsv1.StatefulSet) {
		if old == nil || now == nil || old.UID != now.UID {
			b.set("StatefulSet", nameOf(old, now), statefulSetSelector(now))
		}
	})
}

func (b *inbox) set(kind string, name types.NamespacedName, selects *keeper) {
	b.other(objectKey{kind, name.Namespace, name.Name}, func(c *cluster) {
		c.keepers.setSet(objectKey{kind, name.Namespace, name.Name}, selects)
	})
}

// nameOf names an object by whichever state there is.
func nameOf[T interface {
	comparable
	metav1.Object
}](old, now T) types.NamespacedName {
	var none T
	if now == none {
		now = old
	}
	return types.NamespacedName{Namespace: now.GetNamespace(), Name: now.GetName()}
}

// What controllers select; nil for one that is gone, or can't be read.

func controllerSelector(rc *corev1.ReplicationController) *keeper {
	if rc == nil {
		return nil
	}
	return &keeper{over: rc.Spec.Selector}
}

func replicaSetSelector(rs *appsv1.ReplicaSet) *keeper {
	if rs == nil {
		return nil
	}
	return readSelector(rs.Spec.Selector)
}

func statefulSetSelector(set *appsv1.StatefulSet) *keeper {
	if set == nil {
		return nil
	}
	return readSelector(set.Spec.Selector)
}

func readSelector(s *metav1.LabelSelector) *keeper {
	selects, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil
	}
	return &keeper{selects: selects}
}

// defaultsMost bounds what is remembered of pods that are spread by default;
// beyond it all is forgotten, and read again.
const defaultsMost = 10_000

// defaults are the soft constraints of a pod that has none.
func (c *cluster) defaults(p *podInfo) []spreadRule {
	k := &c.keepers
	set := k.set(p)
	if set == nil && len(k.services[p.pod.Namespace]) == 0 {
		return nil
	}
	by := p.profile.spread
	scope := newScopeRule(p, nil, true, false)
	key := defaultKey{by: by, kin: p.kin, owner: ownerOf(p.pod)}
	if scope != nil {
		key.scope = scope.key
	}
	if !by.system {
		key.scope = by.scopeKey(p)
	}
	changes := k.changes[p.pod.Namespace]
	d := k.known[key]
	if d != nil && d.epoch == c.index.epoch && d.changes == changes && d.set == set {
		for i := range d.rules {
			d.rules[i].tally.usedAt = c.index.uses
		}
		return d.rules
	}
	d = &defaultRules{epoch: c.index.epoch, changes: changes, set: set}
	if selects := k.selectorOf(p, set); !selects.Empty() {
		if of := spreadSelector(p.pod.Namespace, selects); by.system {
			d.rules = []spreadRule{
				{topology: corev1.LabelHostname, maxSkew: 3, selector: of, scope: scope},
				{topology: corev1.LabelTopologyZone, maxSkew: 5, selector: of, scope: scope},
			}
		} else {
			d.rules = readSpread(p, by.constraints, corev1.ScheduleAnyway, selects)
		}
		for i := range d.rules {
			d.rules[i].lookUp(c.index, false)
		}
	}
	if len(k.known) >= defaultsMost {
		clear(k.known)
	}
	k.known[key] = d
	return d.rules
}

// scopeKey writes down what the constraints' nodes depend on of the pod.
func (d *spreadDefaults) scopeKey(p *podInfo) string {
	var b strings.Builder
	nodeChoiceKey(p.pod, &b)
	tolerationsKey(p.pod, &b)
	return b.String()
}

// spreadHard gives a pod that has no constraints of its own the hard ones of its
// profile, as its services and its controller are now.
func (c *cluster) spreadHard(p *podInfo) {
	selects := c.keepers.selectorOf(p, c.keepers.set(p))
	if selects.Empty() {
		return
	}
	if p.rules == nil {
		p.rules = &rules{}
	}
	p.rules.spread = readSpread(p, p.profile.spread.constraints, corev1.DoNotSchedule, selects)
	p.class = classOf(p)
}

func ownerOf(pod *corev1.Pod) types.UID {
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		return ref.UID
	}
	return ""
}
