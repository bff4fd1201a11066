// Command gen writes the schemas that server-side apply works with: client-go's,
// without versions that are not stable, in a form that is read in a hundredth of
// the time. Run it with go generate after an upgrade of client-go.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/gob"
	"log"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/applyconfigurations"
	"sigs.k8s.io/structured-merge-diff/v6/schema"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/managedfields"
)

func main() {
	pod := &corev1.Pod{}
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	typed, err := applyconfigurations.NewTypeConverter(kube.Scheme).ObjectToTyped(pod)
	if err != nil {
		log.Fatal(err)
	}
	var stable []schema.TypeDef
	for _, t := range typed.Schema().Types {
		if managedfields.Stable(t.Name) {
			if t.Map != nil {
				for i := range t.Map.Fields {
					// Only those of list keys count, which are scalars.
					if _, composite := t.Map.Fields[i].Default.(map[any]any); composite {
						t.Map.Fields[i].Default = nil
					}
				}
			}
			stable = append(stable, t)
		}
	}
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err := gob.NewEncoder(w).Encode(stable); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("schema.gob.gz", out.Bytes(), 0o644); err != nil {
		log.Fatal(err)
	}
}
