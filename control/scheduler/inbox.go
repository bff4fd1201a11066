package scheduler

import (
	"iter"
	"sync"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/types"
)

// inbox takes what caches report to the goroutine that decides. It keeps the
// last state of each object only, so it never holds more than there are objects
// and the caches never wait.
type inbox struct {
	arrived chan struct{} // holds a token when something is in the box

	mu       sync.Mutex
	pods     map[types.UID]*corev1.Pod // nil: gone
	podOrder []types.UID
	nodes    map[string]*corev1.Node // nil: gone
	others   map[objectKey]func(*cluster)
	budgets  map[types.UID]budgetNews
}

// budgetNews is a disruption budget as it is, or was before it went.
type budgetNews struct {
	*policyv1.PodDisruptionBudget
	gone bool
}

// objectKey names what is neither a pod nor a node.
type objectKey struct{ kind, namespace, name string }

func newInbox() *inbox {
	return &inbox{
		arrived: make(chan struct{}, 1),
		pods:    make(map[types.UID]*corev1.Pod),
		nodes:   make(map[string]*corev1.Node),
		others:  make(map[objectKey]func(*cluster)),
		budgets: make(map[types.UID]budgetNews),
	}
}

// pod is a cache handler.
func (b *inbox) pod(old, now *corev1.Pod) {
	b.mu.Lock()
	if old != nil && (now == nil || now.UID != old.UID) {
		b.putPod(old.UID, nil)
	}
	if now != nil {
		b.putPod(now.UID, now)
	}
	b.mu.Unlock()
	b.ring()
}

func (b *inbox) putPod(uid types.UID, pod *corev1.Pod) {
	if _, known := b.pods[uid]; !known {
		b.podOrder = append(b.podOrder, uid)
	}
	b.pods[uid] = pod
}

// node is a cache handler.
func (b *inbox) node(old, now *corev1.Node) {
	b.mu.Lock()
	if now != nil {
		b.nodes[now.Name] = now
	} else {
		b.nodes[old.Name] = nil
	}
	b.mu.Unlock()
	b.ring()
}

// other keeps what an object's last state means to the cluster.
func (b *inbox) other(of objectKey, means func(*cluster)) {
	b.mu.Lock()
	b.others[of] = means
	b.mu.Unlock()
	b.ring()
}

// budget is a cache handler. It wakes nobody: budgets are of interest when
// something is to be evicted.
func (b *inbox) budget(old, now *policyv1.PodDisruptionBudget) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old != nil {
		b.budgets[old.UID] = budgetNews{old, true}
	}
	if now != nil {
		b.budgets[now.UID] = budgetNews{now, false}
	}
}

// takeBudgets empties the box of budgets.
func (b *inbox) takeBudgets() map[types.UID]budgetNews {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.budgets) == 0 {
		return nil
	}
	budgets := b.budgets
	b.budgets = make(map[types.UID]budgetNews)
	return budgets
}

func (b *inbox) ring() {
	select {
	case b.arrived <- struct{}{}:
	default:
	}
}

// takePods empties the box of pods, in the order in which they were first heard
// of; nil: gone.
func (b *inbox) takePods() iter.Seq2[types.UID, *corev1.Pod] {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pods) == 0 {
		return func(func(types.UID, *corev1.Pod) bool) {}
	}
	pods, order := b.pods, b.podOrder
	b.pods, b.podOrder = make(map[types.UID]*corev1.Pod), nil
	return func(yield func(types.UID, *corev1.Pod) bool) {
		for _, uid := range order {
			if !yield(uid, pods[uid]) {
				return
			}
		}
	}
}

// takeNodes empties the box of nodes, by name; nil: gone.
func (b *inbox) takeNodes() map[string]*corev1.Node {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.nodes) == 0 {
		return nil // and never the map that the handlers write to
	}
	nodes := b.nodes
	b.nodes = make(map[string]*corev1.Node)
	return nodes
}

// takeOthers empties the box of everything else.
func (b *inbox) takeOthers() map[objectKey]func(*cluster) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.others) == 0 {
		return nil
	}
	others := b.others
	b.others = make(map[objectKey]func(*cluster))
	return others
}
