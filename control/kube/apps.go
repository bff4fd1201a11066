package kube

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/pkg/api/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	"k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/features"
)

// Upstream's rules for apps/v1 that depend on nothing but the object.
var (
	ValidateDeploymentStatusUpdate   = onUpdate[*appsv1.Deployment](validation.ValidateDeploymentStatusUpdate)
	ValidateReplicaSetStatusUpdate   = onUpdate[*appsv1.ReplicaSet](validation.ValidateReplicaSetStatusUpdate)
	ValidateStatefulSetStatusUpdate  = onUpdate[*appsv1.StatefulSet](validation.ValidateStatefulSetStatusUpdate)
	ValidateDaemonSetStatusUpdate    = onUpdate[*appsv1.DaemonSet](validation.ValidateDaemonSetStatusUpdate)
	ValidateControllerRevision       = onCreate[*appsv1.ControllerRevision](validation.ValidateControllerRevisionCreate)
	ValidateControllerRevisionUpdate = onUpdate[*appsv1.ControllerRevision](validation.ValidateControllerRevisionUpdate)
)

// ValidateDeployment says what is wrong with a new deployment.
func ValidateDeployment(_ context.Context, d *appsv1.Deployment) field.ErrorList {
	in := internal[*apps.Deployment](d)
	return validation.ValidateDeployment(in, templateOptions(in, nil))
}

// ValidateDeploymentUpdate says what of d must not differ from old so.
func ValidateDeploymentUpdate(_ context.Context, d, old *appsv1.Deployment) field.ErrorList {
	in, was := internal[*apps.Deployment](d), internal[*apps.Deployment](old)
	return validation.ValidateDeploymentUpdate(in, was, templateOptions(in, was))
}

// DropDisabledDeploymentStatus drops what a status uses of disabled features
// and old does not.
func DropDisabledDeploymentStatus(status, old *appsv1.DeploymentStatus) {
	if !utilfeature.DefaultFeatureGate.Enabled(features.DeploymentReplicaSetTerminatingReplicas) && old.TerminatingReplicas == nil {
		status.TerminatingReplicas = nil
	}
}

// ValidateReplicaSet says what is wrong with a new replica set.
func ValidateReplicaSet(_ context.Context, rs *appsv1.ReplicaSet) field.ErrorList {
	in := internal[*apps.ReplicaSet](rs)
	return validation.ValidateReplicaSet(in, templateOptions(in, nil))
}

// ValidateReplicaSetUpdate says what of rs must not differ from old so.
func ValidateReplicaSetUpdate(_ context.Context, rs, old *appsv1.ReplicaSet) field.ErrorList {
	in, was := internal[*apps.ReplicaSet](rs), internal[*apps.ReplicaSet](old)
	return validation.ValidateReplicaSetUpdate(in, was, templateOptions(in, was))
}

// DropDisabledReplicaSetStatus drops what a status uses of disabled features
// and old does not.
func DropDisabledReplicaSetStatus(status, old *appsv1.ReplicaSetStatus) {
	if !utilfeature.DefaultFeatureGate.Enabled(features.DeploymentReplicaSetTerminatingReplicas) && old.TerminatingReplicas == nil {
		status.TerminatingReplicas = nil
	}
}

// ValidateStatefulSet says what is wrong with a new stateful set.
func ValidateStatefulSet(_ context.Context, set *appsv1.StatefulSet) field.ErrorList {
	in := internal[*apps.StatefulSet](set)
	return validation.ValidateStatefulSet(in, validation.StatefulSetValidationOptions{
		AllowStatefulSetRecreateStrategy: utilfeature.DefaultFeatureGate.Enabled(features.StatefulSetRecreateStrategy),
	}, templateOptions(in, nil))
}

// ValidateStatefulSetUpdate says what of set must not differ from old so. What
// can't be changed anyway may be as invalid as it was stored.
func ValidateStatefulSetUpdate(_ context.Context, set, old *appsv1.StatefulSet) field.ErrorList {
	in, was := internal[*apps.StatefulSet](set), internal[*apps.StatefulSet](old)
	return validation.ValidateStatefulSetUpdate(in, was, validation.StatefulSetValidationOptions{
		AllowInvalidServiceName:          true,
		SkipValidateVolumeClaimTemplates: true,
		AllowStatefulSetRecreateStrategy: utilfeature.DefaultFeatureGate.Enabled(features.StatefulSetRecreateStrategy) ||
			was.Spec.UpdateStrategy.Type == apps.RecreateStatefulSetStrategyType,
	}, templateOptions(in, was))
}

// DropDisabledStatefulSetFields drops what set uses of disabled features and
// old, which is nil for a new set, did not. The pod template is left as it is.
func DropDisabledStatefulSetFields(set, old *appsv1.StatefulSet) {
	used := old != nil && old.Spec.UpdateStrategy.RollingUpdate != nil && old.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable != nil
	if rolling := set.Spec.UpdateStrategy.RollingUpdate; rolling != nil && !used && !utilfeature.DefaultFeatureGate.Enabled(features.MaxUnavailableStatefulSet) {
		rolling.MaxUnavailable = nil
	}
}

// StatefulSetWarnings is what is said about a set beside its pod template.
// Upstream's path for claims ends in another word on update.
func StatefulSetWarnings(set *appsv1.StatefulSet, update bool) []string {
	var warnings []string
	for i, claim := range internal[*apps.StatefulSet](set).Spec.VolumeClaimTemplates {
		path := field.NewPath("spec", "volumeClaimTemplates").Index(i)
		if update {
			path = path.Child("Spec")
		}
		warnings = append(warnings, persistentvolumeclaim.GetWarningsForPersistentVolumeClaimSpec(path, claim.Spec)...)
	}
	if limit := set.Spec.RevisionHistoryLimit; limit != nil && *limit < 0 {
		warnings = append(warnings, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return warnings
}

// PrepareDaemonSet begins the count of a new daemon set's templates, which
// apps/v1 keeps in an annotation.
func PrepareDaemonSet(ds *appsv1.DaemonSet) {
	in := internal[*apps.DaemonSet](ds)
	in.Generation = 1
	in.Spec.TemplateGeneration = max(in.Spec.TemplateGeneration, 1)
	external(in, ds)
}

// PrepareDaemonSetUpdate counts changes: of the template, and of the spec.
func PrepareDaemonSetUpdate(ds, old *appsv1.DaemonSet) {
	in, was := internal[*apps.DaemonSet](ds), internal[*apps.DaemonSet](old)
	in.Spec.TemplateGeneration = was.Spec.TemplateGeneration
	if !apiequality.Semantic.DeepEqual(in.Spec.Template, was.Spec.Template) {
		in.Spec.TemplateGeneration++
	}
	if !apiequality.Semantic.DeepEqual(in.Spec, was.Spec) {
		in.Generation = was.Generation + 1
	}
	external(in, ds)
}

// ValidateDaemonSet says what is wrong with a new daemon set.
func ValidateDaemonSet(_ context.Context, ds *appsv1.DaemonSet) field.ErrorList {
	in := internal[*apps.DaemonSet](ds)
	return validation.ValidateDaemonSet(in, templateOptions(in, nil))
}

// ValidateDaemonSetUpdate says what of ds must not differ from old so.
func ValidateDaemonSetUpdate(_ context.Context, ds, old *appsv1.DaemonSet) field.ErrorList {
	in, was := internal[*apps.DaemonSet](ds), internal[*apps.DaemonSet](old)
	options := templateOptions(in, was)
	options.AllowInvalidLabelValueInSelector = options.AllowInvalidLabelValueInSelector || metav1validation.LabelSelectorHasInvalidLabelValue(was.Spec.Selector)
	return validation.ValidateDaemonSetUpdate(in, was, options)
}

// DaemonSetWarnings is what a user of the template should hear, if it changed.
func DaemonSetWarnings(ctx context.Context, ds, old *appsv1.DaemonSet) []string {
	if internal[*apps.DaemonSet](ds).Spec.TemplateGeneration == internal[*apps.DaemonSet](old).Spec.TemplateGeneration {
		return nil
	}
	return TemplateWarnings(ctx, ds, old)
}
