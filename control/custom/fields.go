package custom

import (
	"sync"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/spec3"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/musterhq/muster/control/resource"
)

// fieldManagers keep the managed fields of one version, by subresource. They are
// made when the first write needs them.
func (v *version) fieldManagers() func(subresource string) resource.FieldManager {
	object := sync.OnceValue(func() resource.FieldManager { return v.newFieldManager("") })
	status := sync.OnceValue(func() resource.FieldManager { return v.newFieldManager("status") })
	return func(subresource string) resource.FieldManager {
		if subresource == "status" {
			return status()
		}
		return object()
	}
}

func (v *version) newFieldManager(subresource string) resource.FieldManager {
	// What a path does not let its user change nobody comes to own through it.
	reset := map[fieldpath.APIVersion]*fieldpath.Set{}
	switch {
	case subresource == "status":
		for _, other := range v.def.versions {
			if other.hasStatus() {
				reset[fieldpath.APIVersion(other.kind.GroupVersion().String())] = fieldpath.NewSet(fieldpath.MakePathOrDie("metadata"), fieldpath.MakePathOrDie("spec"))
			}
		}
	case v.hasStatus():
		reset[fieldpath.APIVersion(v.kind.GroupVersion().String())] = fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	}
	types := v.def.types()
	manager, err := managedfields.NewDefaultCRDFieldManager(types, v.def.copying, defaulter{v.def}, v,
		v.kind, v.kind.GroupVersion(), subresource, fieldpath.NewExcludeFilterSetMap(reset))
	if err != nil {
		panic("custom: " + err.Error()) // only ever for want of a converter
	}
	return manager
}

// newTypes reads from the schemas of all versions which lists are merged by key.
// Of schemas that it cannot read it takes every list as a whole, as upstream.
func (d *definition) newTypes() managedfields.TypeConverter {
	var documents []*spec3.OpenAPI
	for name := range d.versions {
		document, err := builder.BuildOpenAPIV3(d.crd, name, builder.Options{})
		if err != nil {
			return managedfields.NewDeducedTypeConverter()
		}
		documents = append(documents, document)
	}
	merged, err := builder.MergeSpecsV3(documents...)
	if err != nil || merged.Components == nil {
		return managedfields.NewDeducedTypeConverter()
	}
	types, err := managedfields.NewTypeConverter(merged.Components.Schemas, d.crd.Spec.PreserveUnknownFields)
	if err != nil {
		return managedfields.NewDeducedTypeConverter()
	}
	return types
}

// New implements runtime.ObjectCreater, for field managers.
func (v *version) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(kind)
	return u, nil
}

// defaulter is runtime.ObjectDefaulter, for field managers, which see objects of
// all versions.
type defaulter struct{ def *definition }

func (d defaulter) Default(obj runtime.Object) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return
	}
	var of *structuralschema.Structural
	if v := d.def.versions[u.GroupVersionKind().Version]; v != nil {
		if c, err := v.compiled(); err == nil {
			of = c.structural
		}
	}
	defaulting.Default(u.Object, of)
}
