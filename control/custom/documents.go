package custom

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/musterhq/muster/control/resource"
)

// fingerprint is the same on every control node that serves a definition the same
// way. Documents are named by it, so that none is made before somebody reads it.
func fingerprint(d *definition) (string, error) {
	text, err := json.Marshal([]any{d.crd.UID, d.crd.Spec, d.crd.Status.AcceptedNames})
	if err != nil {
		return "", fmt.Errorf("encode the definition: %w", err)
	}
	return fmt.Sprintf("%X", sha256.Sum256(text)), nil
}

// documentsOf describe what the definitions, which are in order of their names,
// serve in each group version. Those in before that would be the same are kept.
func documentsOf(definitions []*definition, before []resource.Document) []resource.Document {
	by := map[schema.GroupVersion][]*definition{}
	for _, d := range definitions {
		for _, kind := range d.custom.Served {
			gv := kind.Spec.Kind.GroupVersion()
			by[gv] = append(by[gv], d)
		}
	}
	documents := make([]resource.Document, 0, len(by))
	for gv, definitions := range by {
		hash := sha256.New()
		for _, d := range definitions {
			fmt.Fprintln(hash, d.fingerprint)
		}
		name := fmt.Sprintf("%X", hash.Sum(nil))
		if at := slices.IndexFunc(before, func(d resource.Document) bool { return d.GroupVersion == gv && d.Hash == name }); at >= 0 {
			documents = append(documents, before[at])
			continue
		}
		documents = append(documents, resource.Document{
			GroupVersion: gv, Hash: name,
			V3: sync.OnceValues(func() ([]byte, error) { return documentV3(definitions, gv.Version) }),
			V2: sync.OnceValues(func() ([]byte, error) { return documentV2(definitions, gv.Version) }),
		})
	}
	slices.SortFunc(documents, func(a, b resource.Document) int {
		return cmp.Or(cmp.Compare(a.GroupVersion.Group, b.GroupVersion.Group), cmp.Compare(a.GroupVersion.Version, b.GroupVersion.Version))
	})
	return documents
}

func documentV3(definitions []*definition, version string) ([]byte, error) {
	var parts []*spec3.OpenAPI
	for _, d := range definitions {
		part, err := builder.BuildOpenAPIV3(d.crd, version, builder.Options{IncludeSelectableFields: true})
		if err != nil {
			return nil, fmt.Errorf("describe %s: %w", d.crd.Name, err)
		}
		parts = append(parts, part)
	}
	merged, err := builder.MergeSpecsV3(parts...)
	if err != nil {
		return nil, err
	}
	return json.Marshal(merged)
}

// documentV2 is the same in the old form, which has no defaults.
func documentV2(definitions []*definition, version string) ([]byte, error) {
	merged := &spec.Swagger{SwaggerProps: spec.SwaggerProps{Swagger: "2.0", Info: &spec.Info{InfoProps: spec.InfoProps{Title: "Custom resources", Version: "v1"}}, Paths: &spec.Paths{Paths: map[string]spec.PathItem{}}, Definitions: spec.Definitions{}}}
	for _, d := range definitions {
		part, err := builder.BuildOpenAPIV2(d.crd, version, builder.Options{V2: true, IncludeSelectableFields: true})
		if err != nil {
			return nil, fmt.Errorf("describe %s: %w", d.crd.Name, err)
		}
		for name, definition := range handler.PruneDefaults(part.Definitions) {
			merged.Definitions[name] = definition
		}
		for path, item := range part.Paths.Paths {
			merged.Paths.Paths[path] = item
		}
	}
	return json.Marshal(merged)
}
