package disruption

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// Evictions come from all sides while the status is being worked out anew for each. A
// status that were written over a newer one would allow a disruption twice.
// It is provoked by writes of the controller that take their time.
func TestEvictionsNeverExceedTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log, _ := storetest.Open(t)
		m := test.Begin(t, s)
		slow := test.Resume(t, s.WithLog(slowLog{log}))
		slow.Run(New(Config{Registry: slow.Registry, Caches: slow.Caches, Events: slow.Events, Logger: slow.Logger}).Run)
		test.Create(m, resource.Nodes, test.Node("n"))
		const pods, least = 30, 12
		for i := range pods {
			p := test.Pod(fmt.Sprint("p", i))
			p.Labels = map[string]string{"app": "web"}
			p = test.Create(m, resource.Pods, p)
			if err := m.Registry.BindMany(t.Context(), []resource.Binding{{Namespace: "default", Pod: p.Name, UID: p.UID, Node: "n"}})[0]; err != nil {
				t.Fatal(err)
			}
			m.SetReady(p, true)
		}
		test.Create(m, resource.PodDisruptionBudgets, makeBudget(policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(least))}))
		time.Sleep(time.Second)
		var evictors sync.WaitGroup
		for i := range pods {
			evictors.Go(func() {
				name := fmt.Sprint("p", i)
				for range 20 {
					if m.Registry.Evict(t.Context(), "default", name, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}, resource.CreateOptions{}) == nil {
						return
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		evictors.Wait()
		left := 0
		for _, p := range test.List[*corev1.Pod](m, store.Pods) {
			if p.DeletionTimestamp == nil {
				left++
			}
		}
		if left != least {
			t.Errorf("%d pods are left, want %d", left, least)
		}
	})
}

// slowLog lets others write between a writer's look and its write.
type slowLog struct{ *storetest.Log }

func (l slowLog) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	time.Sleep(2 * time.Millisecond)
	return l.Log.Propose(ctx, cmd)
}
