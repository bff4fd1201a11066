// Command gen writes the schemas that server-side apply works with: client-go's,
// without what only versions that are not stable need, in a form that is read in
// a hundredth of the time. Run it with go generate after an upgrade of client-go.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/gob"
	"log"
	"os"
	"regexp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/applyconfigurations"
	"sigs.k8s.io/structured-merge-diff/v6/schema"

	"github.com/musterhq/muster/control/kube"
)

func main() {
	pod := &corev1.Pod{}
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	typed, err := applyconfigurations.NewTypeConverter(kube.Scheme).ObjectToTyped(pod)
	if err != nil {
		log.Fatal(err)
	}
	kept := reachable(typed.Schema())
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err := gob.NewEncoder(w).Encode(kept); err != nil {
		log.Fatal(err)
	}
	if err := w.Close(); err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile("schema.gob.gz", out.Bytes(), 0o644); err != nil {
		log.Fatal(err)
	}
}

// unstable are the names of types of versions that are not served.
var unstable = regexp.MustCompile(`\.v[0-9]+(alpha|beta)[0-9]+\.`)

// reachable are the stable types and those that they refer to.
func reachable(all *schema.Schema) []schema.TypeDef {
	byName := map[string]schema.TypeDef{}
	for _, t := range all.Types {
		byName[t.Name] = t
	}
	kept := map[string]bool{}
	var keep func(name string)
	var follow func(atom schema.Atom)
	refer := func(ref schema.TypeRef) {
		if ref.NamedType != nil {
			keep(*ref.NamedType)
		}
		follow(ref.Inlined)
	}
	follow = func(atom schema.Atom) {
		if atom.List != nil {
			refer(atom.List.ElementType)
		}
		if atom.Map != nil {
			refer(atom.Map.ElementType)
			for i := range atom.Map.Fields {
				refer(atom.Map.Fields[i].Type)
				// Only the defaults of list keys count, which are scalars.
				if _, composite := atom.Map.Fields[i].Default.(map[any]any); composite {
					atom.Map.Fields[i].Default = nil
				}
			}
		}
	}
	keep = func(name string) {
		if !kept[name] {
			kept[name] = true
			follow(byName[name].Atom)
		}
	}
	for _, t := range all.Types {
		if !unstable.MatchString(t.Name) {
			keep(t.Name)
		}
	}
	return slices.DeleteFunc(slices.Clone(all.Types), func(t schema.TypeDef) bool { return !kept[t.Name] })
}
