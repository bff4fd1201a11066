package admission

import (
	"fmt"
	"testing"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store/storetest"
)

// What all checks cost a pod's create in a cluster where nobody configured any:
// the difference between the two.
func BenchmarkCreatePod(b *testing.B) {
	for name, checked := range map[string]bool{"admitted": true, "unchecked": false} {
		b.Run(name, func(b *testing.B) {
			s := storetest.New(b)
			var chain resource.Admission = resource.AdmitAll{}
			if checked {
				chain = New(s, Settings{})
			}
			r := resource.New(s, chain)
			if err := resource.EnsureBootstrap(b.Context(), r); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := r.Create(b.Context(), resource.Pods, "default", newPod(fmt.Sprint("web-", i)), resource.CreateOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
