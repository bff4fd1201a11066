package custom

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/musterhq/muster/control/store"
)

// version is one version of a definition, and what its schema says: it is the
// resource.Schema and the store.Codec of its kind.
type version struct {
	def        *definition
	spec       *apiextensionsv1.CustomResourceDefinitionVersion
	kind       schema.GroupVersionKind
	deprecated string
	// compiled is made by whoever needs it first.
	compiled func() (*compiled, error)
	columns  func() rest.TableConvertor
}

// compiled is a schema in the forms in which it is applied.
type compiled struct {
	structural *structuralschema.Structural
	object     validation.SchemaValidator
	// status validates what is below .status; nil: no schema says anything.
	status validation.SchemaValidator
	// rules are the x-kubernetes-validations; nil: none.
	rules *cel.Validator
}

func newVersion(d *definition, spec *apiextensionsv1.CustomResourceDefinitionVersion) *version {
	v := &version{
		def: d, spec: spec,
		kind: schema.GroupVersionKind{Group: d.crd.Spec.Group, Version: spec.Name, Kind: d.crd.Status.AcceptedNames.Kind},
	}
	v.deprecated = v.deprecation()
	v.compiled = sync.OnceValues(func() (*compiled, error) { return compile(spec, d.crd.Spec.PreserveUnknownFields) })
	v.columns = sync.OnceValue(func() rest.TableConvertor {
		columns := spec.AdditionalPrinterColumns
		if len(columns) == 0 {
			columns = []apiextensionsv1.CustomResourceColumnDefinition{{
				Name: "Age", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"], JSONPath: ".metadata.creationTimestamp",
			}}
		}
		table, _ := tableconvertor.New(columns) // of columns that cannot be read it shows those before
		return table
	})
	return v
}

// compile fails for no schema that passed validation.
func compile(spec *apiextensionsv1.CustomResourceDefinitionVersion, preserveUnknown bool) (*compiled, error) {
	c := &compiled{}
	var props *apiextensions.JSONSchemaProps
	if spec.Schema != nil && spec.Schema.OpenAPIV3Schema != nil {
		in := &apiextensions.CustomResourceValidation{}
		if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(spec.Schema, in, nil); err != nil {
			return nil, fmt.Errorf("convert the schema: %w", err)
		}
		props = in.OpenAPIV3Schema
		structural, err := structuralschema.NewStructural(props)
		switch {
		case err == nil:
			// Defaults are shared with the definition until they are copied.
			c.structural = structural.DeepCopy()
		case !preserveUnknown:
			return nil, fmt.Errorf("the schema is not structural: %w", err)
		}
		if !preserveUnknown {
			if err := defaulting.PruneDefaults(c.structural); err != nil {
				return nil, fmt.Errorf("prune the schema's defaults: %w", err)
			}
		}
	}
	var err error
	if c.object, _, err = validation.NewSchemaValidator(props); err != nil {
		return nil, fmt.Errorf("make a validator: %w", err)
	}
	if props != nil {
		if status, ok := props.Properties["status"]; ok {
			if c.status, _, err = validation.NewSchemaValidator(&status); err != nil {
				return nil, fmt.Errorf("make a validator of the status: %w", err)
			}
		}
	}
	if c.structural != nil {
		c.rules = cel.NewValidator(c.structural, true, celconfig.PerCallLimit)
	}
	return c, nil
}

// Coerce implements resource.Schema.
func (v *version) Coerce(obj store.Object, report bool) ([]string, error) {
	return v.coerce(obj.(*unstructured.Unstructured), report, false)
}

// coerce does to a document what decoding does to a Go type. What was stored is
// not refused for metadata that is malformed: that is dropped.
func (v *version) coerce(u *unstructured.Unstructured, report, stored bool) (unknown []string, err error) {
	c, err := v.compiled()
	if err != nil {
		return nil, err
	}
	kind, hasKind, err := unstructured.NestedString(u.Object, "kind")
	if err != nil {
		return nil, err
	}
	apiVersion, hasAPIVersion, err := unstructured.NestedString(u.Object, "apiVersion")
	if err != nil {
		return nil, err
	}
	metadata, hasMetadata, unknown, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{
		DropMalformedFields: stored, ReturnUnknownFieldPaths: report,
	})
	if err != nil {
		return nil, err
	}
	// Another kind will be refused by what comes next.
	if kind == v.kind.Kind && apiVersion == v.kind.GroupVersion().String() {
		if !v.def.crd.Spec.PreserveUnknownFields {
			unknown = append(unknown, pruning.PruneWithOptions(u.Object, c.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: report})...)
			defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, c.structural)
		}
		problem, more := objectmeta.CoerceWithOptions(nil, u.Object, c.structural, false, objectmeta.CoerceOptions{
			DropInvalidFields: stored, ReturnUnknownFieldPaths: report,
		})
		if problem != nil {
			return nil, problem
		}
		unknown = append(unknown, more...)
	}
	// The schema need not mention these.
	if hasKind {
		u.SetKind(kind)
	}
	if hasAPIVersion {
		u.SetAPIVersion(apiVersion)
	}
	if hasMetadata {
		if err := objectmeta.SetObjectMeta(u.Object, metadata); err != nil {
			return nil, err
		}
	}
	return unknown, nil
}

// Default implements resource.Schema.
func (v *version) Default(obj store.Object) {
	if c, err := v.compiled(); err == nil {
		defaulting.Default(obj.(*unstructured.Unstructured).Object, c.structural)
	}
}

// Table implements resource.Schema.
func (v *version) Table(ctx context.Context, obj runtime.Object) (*metav1.Table, error) {
	return v.columns().ConvertToTable(ctx, obj, nil)
}

// FieldSelector implements resource.Schema.
func (v *version) FieldSelector(selector fields.Selector) (fields.Selector, error) {
	return selector.Transform(func(label, value string) (string, string, error) {
		known := label == "metadata.name" || label == "metadata.namespace" && v.def.crd.Spec.Scope == apiextensionsv1.NamespaceScoped ||
			slices.ContainsFunc(v.spec.SelectableFields, func(f apiextensionsv1.SelectableField) bool {
				return strings.TrimPrefix(f.JSONPath, ".") == label
			})
		if !known {
			return "", "", fmt.Errorf("field label not supported: %s", label)
		}
		return label, value, nil
	})
}

// errTerminating is upstream's reason to refuse new objects.
var errTerminating = errors.New("create not allowed while custom resource definition is terminating")

// Demand implements resource.Schema: an object is created only while its
// definition is as it was when it was last looked at, and is not being deleted.
// Else the object could outlive it, as nothing.
func (v *version) Demand(s *store.Store, obj store.Object) (store.Write, error) {
	item, _, err := s.Table(store.CustomResourceDefinitions).GetItem("", v.def.crd.Name)
	if errors.Is(err, store.ErrNotFound) {
		return store.Write{}, apierrors.NewNotFound(v.def.group, obj.GetName())
	}
	if err != nil {
		return store.Write{}, err
	}
	crd, err := store.Decode(store.CustomResourceDefinitions, item)
	switch {
	case err != nil:
		return store.Write{}, err
	case crd.GetUID() != v.def.crd.UID:
		return store.Write{}, apierrors.NewNotFound(v.def.group, obj.GetName())
	case crd.GetDeletionTimestamp() != nil:
		return store.Write{}, apierrors.NewForbidden(v.def.group, obj.GetName(), errTerminating)
	}
	return store.Write{Verb: store.Check, Spec: store.CustomResourceDefinitions, Name: v.def.crd.Name, Guard: item.Revision}, nil
}

// Deprecated implements resource.Schema.
func (v *version) Deprecated() string { return v.deprecated }

// Until implements resource.Schema.
func (v *version) Until() context.Context { return v.def.until }
