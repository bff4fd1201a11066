package scheduler

import (
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// kin are pods that selectors can't tell apart: same namespace, same labels,
// both on their way out or both not. A selector is held against kin once, not
// against every pod, and what it selects is known from then on.
type kin struct {
	key       string
	namespace string
	labels    labels.Set
	leaving   bool

	on         map[*nodeInfo]int32 // how many there are on each node that exists
	selections []*selection        // that match
	terms      []*term             // carried by somebody, that match
	barring    int                 // how many of terms bar
	pins       int                 // pods placed and parked
}

// kinKey writes down what tells kin apart.
func kinKey(pod *corev1.Pod) string {
	var b strings.Builder
	b.WriteString(pod.Namespace)
	if pod.DeletionTimestamp != nil {
		b.WriteByte('!')
	}
	for _, name := range slices.Sorted(maps.Keys(pod.Labels)) {
		b.WriteByte(0)
		b.WriteString(name)
		b.WriteByte('=')
		b.WriteString(pod.Labels[name])
	}
	return b.String()
}

// kinOf interns the pod's kin.
func (x *index) kinOf(pod *corev1.Pod) *kin {
	key := kinKey(pod)
	if k := x.kin[key]; k != nil {
		return k
	}
	k := &kin{
		key: key, namespace: pod.Namespace, labels: pod.Labels, leaving: pod.DeletionTimestamp != nil,
		on: make(map[*nodeInfo]int32),
	}
	x.kin[key] = k
	x.idleKin++
	ns := x.namespace(k.namespace)
	ns.kin[k] = struct{}{}
	for s := range ns.selections {
		x.meet(k, s)
	}
	for s := range x.wide {
		x.meet(k, s)
	}
	return k
}

func (x *index) dropKin(k *kin) {
	for _, s := range k.selections {
		delete(s.kin, k)
	}
	delete(x.namespace(k.namespace).kin, k)
	delete(x.kin, k.key)
}

func (x *index) pinKin(k *kin, by int) {
	if k.pins == 0 {
		x.idleKin--
	}
	if k.pins += by; k.pins == 0 {
		x.idleKin++
	}
}
