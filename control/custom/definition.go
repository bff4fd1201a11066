package custom

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/conversion"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	apiversion "k8s.io/apimachinery/pkg/version"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// definition is one CustomResourceDefinition as it is served. A change of what
// matters makes a new one.
type definition struct {
	crd      *apiextensionsv1.CustomResourceDefinition // shared, not to be changed
	group    schema.GroupResource
	versions map[string]*version
	stored   *version
	// convert may change what it is given, copying does not.
	convert, copying runtime.ObjectConvertor
	// types tell field managers how lists are merged.
	types func() managedfields.TypeConverter
	// fingerprint tells it from others that are served differently.
	fingerprint string
	custom      resource.Custom
	until       context.Context
	end         context.CancelFunc
}

func established(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established)
}

// shows says whether a definition that was read later is served the same way.
func (d *definition) shows(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return d.crd.UID == crd.UID &&
		apiequality.Semantic.DeepEqual(d.crd.Spec, crd.Spec) &&
		apiequality.Semantic.DeepEqual(d.crd.Status.AcceptedNames, crd.Status.AcceptedNames)
}

func newDefinition(crd *apiextensionsv1.CustomResourceDefinition, converters *conversion.CRConverterFactory) (*definition, error) {
	names := crd.Status.AcceptedNames
	if names.Plural == "" || names.Singular == "" || names.Kind == "" || names.ListKind == "" {
		return nil, fmt.Errorf("accepted names %+v are not complete", names)
	}
	d := &definition{
		crd: crd, group: schema.GroupResource{Group: crd.Spec.Group, Resource: names.Plural},
		versions: map[string]*version{},
	}
	d.until, d.end = context.WithCancel(context.Background())
	var err error
	if d.copying, d.convert, err = converters.NewConverter(crd); err != nil {
		return nil, err
	}
	if d.fingerprint, err = fingerprint(d); err != nil {
		return nil, err
	}
	d.types = sync.OnceValue(d.newTypes)
	// Newest first, as discovery lists them.
	ordered := slices.Clone(crd.Spec.Versions)
	slices.SortFunc(ordered, func(a, b apiextensionsv1.CustomResourceDefinitionVersion) int {
		return apiversion.CompareKubeAwareVersionStrings(b.Name, a.Name)
	})
	var kinds []*resource.Kind
	for i := range ordered {
		v := newVersion(d, &ordered[i])
		d.versions[v.spec.Name] = v
		kind := v.newKind()
		if v.spec.Storage {
			d.stored, d.custom.Stored = v, kind
		}
		kinds = append(kinds, kind)
		if v.spec.Served {
			d.custom.Served = append(d.custom.Served, kind)
		}
	}
	if d.stored == nil {
		return nil, fmt.Errorf("no version is the stored one")
	}
	for _, kind := range kinds {
		kind.StoredAs = d.stored.kind
	}
	return d, nil
}

// newKind is the kind in one version.
func (v *version) newKind() *resource.Kind {
	names := v.def.crd.Status.AcceptedNames
	spec := &store.Spec{
		Resource:   v.def.group,
		Kind:       v.kind,
		Namespaced: v.def.crd.Spec.Scope == apiextensionsv1.NamespaceScoped,
		New: func() store.Object {
			u := &unstructured.Unstructured{}
			u.SetGroupVersionKind(v.kind)
			return u
		},
		NewList: func() runtime.Object {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(v.kind.GroupVersion().WithKind(names.ListKind))
			return list
		},
		Codec: v,
	}
	kind := &resource.Kind{
		Spec: spec, Singular: names.Singular, ListKind: names.ListKind,
		ShortNames: names.ShortNames, Categories: names.Categories,
		Strategy: resource.NewStrategy(spec, "", v.rules()),
		Schema:   v, FieldManager: v.fieldManagers(),
	}
	if v.hasStatus() {
		kind.Subresources = append(kind.Subresources, &resource.Subresource{
			Name: "status", Kind: v.kind, Verbs: []string{"get", "patch", "update"},
			Strategy: resource.NewStrategy(spec, "status", v.statusRules()),
		})
	}
	if v.scale() != nil {
		kind.Subresources = append(kind.Subresources, &resource.Subresource{
			Name: "scale", Kind: autoscalingv1.SchemeGroupVersion.WithKind("Scale"), Verbs: []string{"get", "patch", "update"},
		})
		kind.Scale = v.newScale(spec)
	}
	return kind
}

// deprecation is upstream's warning for users of a deprecated version.
func (v *version) deprecation() string {
	if !v.spec.Deprecated {
		return ""
	}
	if v.spec.DeprecationWarning != nil {
		return *v.spec.DeprecationWarning
	}
	spec := v.def.crd.Spec
	text := fmt.Sprintf("%s/%s %s is deprecated", spec.Group, v.spec.Name, spec.Names.Kind)
	better := ""
	for _, other := range spec.Versions {
		if other.Served && !other.Deprecated && apiversion.CompareKubeAwareVersionStrings(v.spec.Name, other.Name) < 0 &&
			(better == "" || apiversion.CompareKubeAwareVersionStrings(better, other.Name) < 0) {
			better = other.Name
		}
	}
	if better == "" {
		return text
	}
	return text + fmt.Sprintf("; use %s/%s %s", spec.Group, better, spec.Names.Kind)
}

func (v *version) hasStatus() bool {
	return v.spec.Subresources != nil && v.spec.Subresources.Status != nil
}

func (v *version) scale() *apiextensionsv1.CustomResourceSubresourceScale {
	if v.spec.Subresources == nil {
		return nil
	}
	return v.spec.Subresources.Scale
}

// fieldsOf splits a simple path such as .spec.replicas.
func fieldsOf(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }
