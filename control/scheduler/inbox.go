package scheduler

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
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
}

func newInbox() *inbox {
	return &inbox{
		arrived: make(chan struct{}, 1),
		pods:    make(map[types.UID]*corev1.Pod),
		nodes:   make(map[string]*corev1.Node),
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

func (b *inbox) ring() {
	select {
	case b.arrived <- struct{}{}:
	default:
	}
}

// empty plays the contents to c: nodes first, so that pods find them, then pods
// in the order in which they were first heard of.
func (b *inbox) empty(c *core) {
	b.mu.Lock()
	pods, order, nodes := b.pods, b.podOrder, b.nodes
	if len(pods) > 0 {
		b.pods, b.podOrder = make(map[types.UID]*corev1.Pod), nil
	}
	if len(nodes) > 0 {
		b.nodes = make(map[string]*corev1.Node)
	}
	b.mu.Unlock()
	for name, node := range nodes {
		if node == nil {
			c.removeNode(name)
		} else {
			c.setNode(node)
		}
	}
	for _, uid := range order {
		if pod := pods[uid]; pod == nil {
			c.removePod(uid)
		} else {
			c.setPod(pod)
		}
	}
}
