package store

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// CustomResourceDefinitions define further kinds.
var CustomResourceDefinitions = spec[*apiextensionsv1.CustomResourceDefinition](apiextensionsv1.SchemeGroupVersion,
	"customresourcedefinitions", "CustomResourceDefinition", false,
	&apiextensionsv1.CustomResourceDefinition{}, &apiextensionsv1.CustomResourceDefinitionList{}, nil)

var extensionSpecs = []*Spec{CustomResourceDefinitions}
