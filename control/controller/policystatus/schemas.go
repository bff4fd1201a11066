package policystatus

import (
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/musterhq/muster/control/resource"
)

// documents are where the schemas are.
type documents struct {
	registry *resource.Registry
	builtin  func(schema.GroupVersion) ([]byte, error)
}

func (d documents) of(gv schema.GroupVersion) ([]byte, error) {
	for _, custom := range d.registry.Catalog().Documents() {
		if custom.GroupVersion == gv {
			return custom.V3()
		}
	}
	return d.builtin(gv)
}

// schemas finds the schema of a kind in the document of its group version. It is
// upstream's SchemaResolver.
type schemas struct {
	document func(schema.GroupVersion) ([]byte, error)
}

const (
	schemaReference = "#/components/schemas/"
	kindExtension   = "x-kubernetes-group-version-kind"
)

func (s schemas) ResolveSchema(kind schema.GroupVersionKind) (*spec.Schema, error) {
	raw, err := s.document(kind.GroupVersion())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", resolver.ErrSchemaNotFound, err)
	}
	var document struct {
		Components struct {
			Schemas map[string]*spec.Schema `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(raw, &document); err != nil {
		return nil, fmt.Errorf("OpenAPI document of %s: %w", kind.GroupVersion(), err)
	}
	all := document.Components.Schemas
	for name, candidate := range all {
		var is []schema.GroupVersionKind
		if err := candidate.Extensions.GetObject(kindExtension, &is); err != nil {
			return nil, fmt.Errorf("schema %s: %w", name, err)
		}
		for _, k := range is {
			if k != kind {
				continue
			}
			return resolver.PopulateRefs(func(reference string) (*spec.Schema, bool) {
				found, ok := all[strings.TrimPrefix(reference, schemaReference)]
				return found, ok
			}, name)
		}
	}
	return nil, fmt.Errorf("%s: %w", kind, resolver.ErrSchemaNotFound)
}
