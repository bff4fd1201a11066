package scheduler_test

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/fields"

	test "github.com/musterhq/muster/control/controller/controllertest"
	kinds "github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// BenchmarkScheduleWaiting is pods per second, with bindings written, for pods
// that were created before the scheduler began: over a log in memory, so this is
// what the scheduler and the registry cost, not the disk.
func BenchmarkScheduleWaiting(b *testing.B) {
	for _, nodes := range []int{1000, 5000} {
		b.Run(fmt.Sprint(nodes, "nodes"), func(b *testing.B) {
			s := storetest.New(b)
			user := test.Begin(b, s)
			for i := range nodes {
				test.Create(user, kinds.Nodes, test.Node(fmt.Sprintf("n%d", i)))
			}
			for i := range b.N {
				p := test.Pod(fmt.Sprint("p", i))
				p.Spec.Containers[0].Resources.Requests = nil
				test.Create(user, kinds.Pods, p)
			}
			b.ResetTimer()
			m := begin(b, s)
			unbound := store.ListOptions{Fields: fields.OneTermEqualSelector("spec.nodeName", ""), Limit: 1}
			for {
				page, err := s.Table(store.Pods).List(b.Context(), unbound)
				if err != nil {
					b.Fatal(err)
				}
				if len(page.Items) == 0 {
					break
				}
				time.Sleep(time.Millisecond)
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
			m.End()
		})
	}
}
