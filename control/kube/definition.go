package kube

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	formats "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresourcedefinition/tableconvertor"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

func init() { install.Install(Scheme) }

// ValidateCustomResourceDefinition says what is wrong with a new definition.
func ValidateCustomResourceDefinition(ctx context.Context, crd *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	return validation.ValidateCustomResourceDefinition(ctx, internal[*apiextensions.CustomResourceDefinition](crd))
}

// ValidateCustomResourceDefinitionUpdate says what of crd must not differ from
// old so.
func ValidateCustomResourceDefinitionUpdate(ctx context.Context, crd, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	return validation.ValidateCustomResourceDefinitionUpdate(ctx,
		internal[*apiextensions.CustomResourceDefinition](crd), internal[*apiextensions.CustomResourceDefinition](old))
}

// ValidateCustomResourceDefinitionStatusUpdate does the same for the status.
func ValidateCustomResourceDefinitionStatusUpdate(ctx context.Context, crd, old *apiextensionsv1.CustomResourceDefinition) field.ErrorList {
	return validation.ValidateUpdateCustomResourceDefinitionStatus(ctx,
		internal[*apiextensions.CustomResourceDefinition](crd), internal[*apiextensions.CustomResourceDefinition](old))
}

// CustomResourceDefinitionWarnings is what the user of a definition should hear
// though it is valid, and did not hear of old. old is nil for a new one.
func CustomResourceDefinitionWarnings(crd, old *apiextensionsv1.CustomResourceDefinition) []string {
	said := map[string]bool{}
	if old != nil {
		for _, warning := range definitionWarnings(old) {
			said[warning] = true
		}
	}
	return slices.DeleteFunc(definitionWarnings(crd), func(warning string) bool { return said[warning] })
}

func definitionWarnings(crd *apiextensionsv1.CustomResourceDefinition) []string {
	var unknown, sets []string
	version := environment.DefaultCompatibilityVersion()
	look := func(s *apiextensions.JSONSchemaProps) bool {
		if s.Format != "" {
			of := &spec.Schema{SchemaProps: spec.SchemaProps{Format: s.Format, Type: []string{s.Type}}}
			for _, format := range formats.GetUnrecognizedFormats(of, version) {
				unknown = append(unknown, fmt.Sprintf("unrecognized format %q", format))
			}
		}
		if s.XListType != nil && *s.XListType == "set" && s.Items != nil && s.Items.Schema != nil {
			if kind := s.Items.Schema.Type; kind == "object" || kind == "array" {
				sets = append(sets, fmt.Sprintf("x-kubernetes-list-type: set for items of type %q is not supported by server-side apply or CEL validation rules", kind))
			}
		}
		return false // look at all of it
	}
	in := internal[*apiextensions.CustomResourceDefinition](crd)
	if in.Spec.Validation != nil && in.Spec.Validation.OpenAPIV3Schema != nil {
		validation.SchemaHas(in.Spec.Validation.OpenAPIV3Schema, look)
	}
	for _, v := range in.Spec.Versions {
		if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
			validation.SchemaHas(v.Schema.OpenAPIV3Schema, look)
		}
	}
	slices.Sort(sets)
	return append(unknown, slices.Compact(sets)...)
}

var definitions = apiextensions.Resource("customresourcedefinitions")

// definitionTable has the columns of definitions, which upstream keeps apart
// from those of all other kinds.
var definitionTable = tableconvertor.New()

func tableOfDefinitions(ctx context.Context, in runtime.Object) (*metav1.Table, error) {
	return definitionTable.ConvertToTable(ctx, in, &metav1.TableOptions{})
}
