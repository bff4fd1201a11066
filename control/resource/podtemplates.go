package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// PodTemplates are stored for whoever wants to make pods of them.
var PodTemplates = &Kind{
	Spec:                store.PodTemplates,
	Singular:            "podtemplate",
	ReturnDeletedObject: true,
	Strategy: strategy(store.PodTemplates, "", Rules[*corev1.PodTemplate]{
		PrepareForCreate: func(_ context.Context, template *corev1.PodTemplate) {
			template.Generation = 1
			kube.DropDisabledTemplateFields(template, nil)
		},
		Validate: kube.ValidatePodTemplate,
		WarningsOnCreate: func(ctx context.Context, template *corev1.PodTemplate) []string {
			return kube.PodTemplateWarnings(ctx, template, nil)
		},
		PrepareForUpdate: func(_ context.Context, template, old *corev1.PodTemplate) {
			kube.DropDisabledTemplateFields(template, old)
			if !apiequality.Semantic.DeepEqual(template.Template, old.Template) {
				template.Generation = old.Generation + 1
			}
		},
		ValidateUpdate: kube.ValidatePodTemplateUpdate,
		WarningsOnUpdate: func(ctx context.Context, template, old *corev1.PodTemplate) []string {
			if template.Generation == old.Generation {
				return nil
			}
			return kube.PodTemplateWarnings(ctx, template, old)
		},
	}),
}
