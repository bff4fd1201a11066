package controller_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/controller/eventttl"
	"github.com/musterhq/muster/control/controller/garbage"
	"github.com/musterhq/muster/control/controller/namespace"
	"github.com/musterhq/muster/control/controller/nodelifecycle"
	"github.com/musterhq/muster/control/controller/podgc"
	"github.com/musterhq/muster/control/controller/replication"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/scheduler"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// presence hears every node but those that are dead.
type presence struct {
	mu      sync.Mutex
	dead    map[string]bool
	changed chan struct{}
}

func newPresence() *presence {
	return &presence{dead: map[string]bool{}, changed: make(chan struct{})}
}

func (p *presence) Alive(node string) (bool, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.dead[node], !p.dead[node]
}

func (p *presence) SilentFor(string) time.Duration { return 0 }

func (p *presence) Ready() bool { return true }

func (p *presence) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

func (p *presence) kill(node string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead[node] = true
	close(p.changed)
	p.changed = make(chan struct{})
}

// lead runs everything that a leader runs.
func lead(t *testing.T, s *store.Store, p *presence) *test.Term {
	m := test.Begin(t, s)
	m.Run(
		scheduler.New(scheduler.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
		replication.NewReplicationControllers(replication.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
		nodelifecycle.New(nodelifecycle.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Presence: p, Logger: m.Logger}).Run,
		podgc.New(podgc.Config{Registry: m.Registry, Caches: m.Caches, Logger: m.Logger}).Run,
		garbage.New(garbage.Config{Registry: m.Registry, Logger: m.Logger}).Run,
		namespace.New(namespace.Config{Registry: m.Registry, Caches: m.Caches, Logger: m.Logger}).Run,
		eventttl.New(eventttl.Config{Registry: m.Registry, Logger: m.Logger}).Run,
	)
	return m
}

// running are the nodes of a controller's pods that are neither unbound nor
// being deleted.
func running(m *test.Term, rc *corev1.ReplicationController) map[string]int {
	on := map[string]int{}
	for _, p := range test.List[*corev1.Pod](m, store.Pods) {
		if metav1.IsControlledBy(p, rc) && p.Spec.NodeName != "" && p.DeletionTimestamp == nil {
			on[p.Spec.NodeName]++
		}
	}
	return on
}

// web is a controller whose pods outlast a lost node for two seconds, as
// admission makes them.
func web(replicas int32) *corev1.ReplicationController {
	rc := test.ReplicationController("web", replicas)
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		rc.Spec.Template.Spec.Tolerations = append(rc.Spec.Template.Spec.Tolerations, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(2))})
	}
	return rc
}

func sum(on map[string]int) (n int) {
	for _, k := range on {
		n += k
	}
	return n
}

// The headline: a node dies, and what it ran runs elsewhere within seconds, also
// when the leader dies along with it.
func TestPodsOfADeadNodeRunElsewhere(t *testing.T) {
	for _, leaderToo := range []bool{false, true} {
		t.Run(fmt.Sprint("leader too: ", leaderToo), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, p := storetest.New(t), newPresence()
				m := lead(t, s, p)
				for i := range 3 {
					test.Create(m, resource.Nodes, test.Node(fmt.Sprintf("n%d", i)))
				}
				rc := test.Create(m, resource.ReplicationControllers, web(6))
				time.Sleep(time.Second)
				if on := running(m, rc); on["n0"] != 2 || on["n1"] != 2 || on["n2"] != 2 {
					t.Fatalf("pods on %v, want two on each node", on)
				}
				p.kill("n0")
				if leaderToo {
					m.End()
					time.Sleep(time.Second) // an election
					m = lead(t, s, p)
				}
				time.Sleep(4 * time.Second)
				if on := running(m, rc); on["n0"] != 0 || on["n1"] != 3 || on["n2"] != 3 {
					t.Errorf("pods on %v, want three on each node that is left", on)
				}
				// What ran on the dead node waits there for its agent to return.
				left := 0
				for _, pod := range test.List[*corev1.Pod](m, store.Pods) {
					if pod.Spec.NodeName == "n0" && pod.DeletionTimestamp != nil {
						left++
					}
				}
				if left != 2 {
					t.Errorf("%d pods are being deleted on the dead node, want 2", left)
				}
				m.Delete(resource.Nodes, "", "n0")
				time.Sleep(time.Minute)
				if all := len(test.List[*corev1.Pod](m, store.Pods)); all != 6 {
					t.Errorf("%d pods once the node is given up, want 6", all)
				}
				m.End()
			})
		})
	}
}

// With everything running and nothing happening, a day passes: the only writes
// are those that remove old events.
func TestIdleClusterWritesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := lead(t, storetest.New(t), newPresence())
		for i := range 5 {
			test.Create(m, resource.Nodes, test.Node(fmt.Sprintf("n%d", i)))
		}
		rc := test.Create(m, resource.ReplicationControllers, web(20))
		huge := test.Pod("huge")
		huge.Spec.NodeSelector = map[string]string{"no": "such"}
		test.Create(m, resource.Pods, huge)
		time.Sleep(time.Second)
		if n := sum(running(m, rc)); n != 20 {
			t.Fatalf("%d pods run, want 20", n)
		}
		time.Sleep(2 * time.Hour) // until events are gone
		if n := len(test.List[*corev1.Event](m, store.Events)); n != 0 {
			t.Errorf("%d events after two hours, want none", n)
		}
		before := m.Registry.Store().Revision()
		time.Sleep(24 * time.Hour)
		if after := m.Registry.Store().Revision(); after != before {
			t.Errorf("%d writes in an idle day, want none", after-before)
		}
		m.End()
	})
}

// A namespace with a running controller in it goes: nobody fills it while it is
// emptied.
func TestNamespaceWithAControllerGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := lead(t, storetest.New(t), newPresence())
		test.Create(m, resource.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}})
		rc := web(10)
		rc.Namespace = "team"
		test.Create(m, resource.ReplicationControllers, rc)
		time.Sleep(time.Second)
		m.Delete(resource.Namespaces, "", "team")
		time.Sleep(10 * time.Second)
		if _, ok := test.Get[*corev1.Namespace](m, store.Namespaces, "", "team"); ok {
			t.Error("the namespace is still there")
		}
		if n := m.Registry.Store().View().Count(store.Pods.Prefix("team")); n != 0 {
			t.Errorf("%d pods left in no namespace", n)
		}
		m.End()
	})
}

func TestDeletedControllersPodsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := lead(t, storetest.New(t), newPresence())
		test.Create(m, resource.Nodes, test.Node("n"))
		for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
			rc := test.Create(m, resource.ReplicationControllers, web(5))
			time.Sleep(time.Second)
			m.Delete(resource.ReplicationControllers, "default", "web", metav1.DeleteOptions{PropagationPolicy: &policy})
			time.Sleep(time.Second)
			kept := 0
			for _, p := range test.List[*corev1.Pod](m, store.Pods) {
				if p.DeletionTimestamp == nil {
					kept++
				} else {
					m.Delete(resource.Pods, p.Namespace, p.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}) // as its agent says
				}
			}
			want := 0
			if policy == metav1.DeletePropagationOrphan {
				want = 5
			}
			if kept != want {
				t.Errorf("%s: %d pods live on, want %d", policy, kept, want)
			}
			time.Sleep(time.Second)
			if _, ok := test.Get[*corev1.ReplicationController](m, store.ReplicationControllers, "default", rc.Name); ok {
				t.Errorf("%s: the controller is still there", policy)
			}
		}
		m.End()
	})
}
