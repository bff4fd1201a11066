package resource

import (
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/musterhq/muster/control/store"
)

func appsExamples() map[*Kind]store.Object {
	// Functions, because what is created belongs to the registry.
	selector := func() *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
	}
	template := func() corev1.PodTemplateSpec { return *newRC("x", 1).Spec.Template }
	job := func() batchv1.JobSpec {
		job := batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: newPod("").Spec}}
		job.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
		return job
	}
	return map[*Kind]store.Object{
		Deployments: &appsv1.Deployment{ObjectMeta: named("x"), Spec: appsv1.DeploymentSpec{Selector: selector(), Template: template()}},
		ReplicaSets: &appsv1.ReplicaSet{ObjectMeta: named("x"), Spec: appsv1.ReplicaSetSpec{Selector: selector(), Template: template()}},
		StatefulSets: &appsv1.StatefulSet{ObjectMeta: named("x"), Spec: appsv1.StatefulSetSpec{
			Selector: selector(), Template: template(), ServiceName: "x",
		}},
		DaemonSets: &appsv1.DaemonSet{ObjectMeta: named("x"), Spec: appsv1.DaemonSetSpec{Selector: selector(), Template: template()}},
		ControllerRevisions: &appsv1.ControllerRevision{
			ObjectMeta: named("x"), Revision: 1, Data: runtime.RawExtension{Raw: []byte(`{"spec":{}}`)},
		},
		Jobs: &batchv1.Job{ObjectMeta: named("x"), Spec: job()},
		CronJobs: &batchv1.CronJob{ObjectMeta: named("x"), Spec: batchv1.CronJobSpec{
			Schedule: "@hourly", JobTemplate: batchv1.JobTemplateSpec{Spec: job()},
		}},
		PodDisruptionBudgets: &policyv1.PodDisruptionBudget{ObjectMeta: named("x"), Spec: policyv1.PodDisruptionBudgetSpec{Selector: selector()}},
		Leases: &coordinationv1.Lease{ObjectMeta: named("x"), Spec: coordinationv1.LeaseSpec{
			HolderIdentity: new("me"), LeaseDurationSeconds: new(int32(15)),
		}},
	}
}
