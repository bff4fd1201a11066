package kube

import (
	"context"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/kubernetes/pkg/apis/flowcontrol"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	"k8s.io/kubernetes/pkg/apis/flowcontrol/validation"
)

// ValidateFlowSchema is upstream's, as it is.
var ValidateFlowSchema = onCreate[*flowcontrolv1.FlowSchema](validation.ValidateFlowSchema)

// ValidateFlowSchemaUpdate says what is wrong with a schema that was old.
func ValidateFlowSchemaUpdate(_ context.Context, schema, old *flowcontrolv1.FlowSchema) field.ErrorList {
	return validation.ValidateFlowSchemaUpdate(internal[*flowcontrol.FlowSchema](old), internal[*flowcontrol.FlowSchema](schema))
}

// ValidateFlowSchemaStatusUpdate does the same for the status.
func ValidateFlowSchemaStatusUpdate(_ context.Context, schema, old *flowcontrolv1.FlowSchema) field.ErrorList {
	return validation.ValidateFlowSchemaStatusUpdate(internal[*flowcontrol.FlowSchema](old), internal[*flowcontrol.FlowSchema](schema))
}

// ValidatePriorityLevel says what is wrong with a priority level, new or not.
func ValidatePriorityLevel(_ context.Context, level *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	return validation.ValidatePriorityLevelConfiguration(internal[*flowcontrol.PriorityLevelConfiguration](level), flowcontrolv1.SchemeGroupVersion, validation.PriorityLevelValidationOptions{})
}

// ValidatePriorityLevelStatusUpdate says what is wrong with a level's status.
func ValidatePriorityLevelStatusUpdate(_ context.Context, level, old *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	return validation.ValidatePriorityLevelConfigurationStatusUpdate(internal[*flowcontrol.PriorityLevelConfiguration](old), internal[*flowcontrol.PriorityLevelConfiguration](level))
}

// FlowControl is what every cluster has of flow schemas and priority levels.
// Mandatory ones are as they are; suggested ones may be changed by an operator.
// The objects are shared: copy before use.
type FlowControl struct {
	Levels, SuggestedLevels   []*flowcontrolv1.PriorityLevelConfiguration
	Schemas, SuggestedSchemas []*flowcontrolv1.FlowSchema
}

// BootstrapFlowControl are upstream's.
func BootstrapFlowControl() FlowControl {
	return FlowControl{
		Levels:           bootstrap.MandatoryPriorityLevelConfigurations,
		SuggestedLevels:  bootstrap.SuggestedPriorityLevelConfigurations,
		Schemas:          bootstrap.MandatoryFlowSchemas,
		SuggestedSchemas: bootstrap.SuggestedFlowSchemas,
	}
}
