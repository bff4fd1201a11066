package resource

import (
	"context"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// FlowSchemas put requests into priority levels.
var FlowSchemas = &Kind{
	Spec:     store.FlowSchemas,
	Singular: "flowschema",
	Strategy: strategy(store.FlowSchemas, "", Rules[*flowcontrolv1.FlowSchema]{
		PrepareForCreate: func(_ context.Context, schema *flowcontrolv1.FlowSchema) {
			schema.Status = flowcontrolv1.FlowSchemaStatus{}
			schema.Generation = 1
		},
		Validate: kube.ValidateFlowSchema,
		PrepareForUpdate: func(_ context.Context, schema, old *flowcontrolv1.FlowSchema) {
			if !apiequality.Semantic.DeepEqual(schema.Spec, old.Spec) {
				schema.Generation = old.Generation + 1
			}
			schema.Status = old.Status
		},
		ValidateUpdate: kube.ValidateFlowSchemaUpdate,
	}),
	Subresources: []*Subresource{status(store.FlowSchemas, Rules[*flowcontrolv1.FlowSchema]{
		PrepareForUpdate: func(_ context.Context, schema, old *flowcontrolv1.FlowSchema) {
			schema.Spec = old.Spec
			keepMetadata(&schema.ObjectMeta, &old.ObjectMeta)
		},
		ValidateUpdate: kube.ValidateFlowSchemaStatusUpdate,
	})},
}

// PriorityLevelConfigurations share out what the API server does at once.
var PriorityLevelConfigurations = &Kind{
	Spec:     store.PriorityLevelConfigurations,
	Singular: "prioritylevelconfiguration",
	Strategy: strategy(store.PriorityLevelConfigurations, "", Rules[*flowcontrolv1.PriorityLevelConfiguration]{
		PrepareForCreate: func(_ context.Context, level *flowcontrolv1.PriorityLevelConfiguration) {
			level.Status = flowcontrolv1.PriorityLevelConfigurationStatus{}
			level.Generation = 1
		},
		Validate: kube.ValidatePriorityLevel,
		PrepareForUpdate: func(_ context.Context, level, old *flowcontrolv1.PriorityLevelConfiguration) {
			if !apiequality.Semantic.DeepEqual(level.Spec, old.Spec) {
				level.Generation = old.Generation + 1
			}
			level.Status = old.Status
		},
		ValidateUpdate: func(ctx context.Context, level, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
			return kube.ValidatePriorityLevel(ctx, level)
		},
	}),
	Subresources: []*Subresource{status(store.PriorityLevelConfigurations, Rules[*flowcontrolv1.PriorityLevelConfiguration]{
		PrepareForUpdate: func(_ context.Context, level, old *flowcontrolv1.PriorityLevelConfiguration) {
			level.Spec = old.Spec
			keepMetadata(&level.ObjectMeta, &old.ObjectMeta)
		},
		ValidateUpdate: kube.ValidatePriorityLevelStatusUpdate,
	})},
}

// keepMetadata takes all of it from old but who set which field, which is about
// this very update.
func keepMetadata(meta, old *metav1.ObjectMeta) {
	managed := meta.ManagedFields
	*meta = *old
	meta.ManagedFields = managed
}
