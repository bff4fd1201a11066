package store

import (
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	policyv1 "k8s.io/api/policy/v1"
)

// The kinds of workloads, and what goes with them.
var (
	Deployments         = spec(appsv1.SchemeGroupVersion, "deployments", "Deployment", true, &appsv1.Deployment{}, &appsv1.DeploymentList{}, nil)
	ReplicaSets         = spec(appsv1.SchemeGroupVersion, "replicasets", "ReplicaSet", true, &appsv1.ReplicaSet{}, &appsv1.ReplicaSetList{}, nil)
	StatefulSets        = spec(appsv1.SchemeGroupVersion, "statefulsets", "StatefulSet", true, &appsv1.StatefulSet{}, &appsv1.StatefulSetList{}, nil)
	DaemonSets          = spec(appsv1.SchemeGroupVersion, "daemonsets", "DaemonSet", true, &appsv1.DaemonSet{}, &appsv1.DaemonSetList{}, nil)
	ControllerRevisions = spec(appsv1.SchemeGroupVersion, "controllerrevisions", "ControllerRevision", true, &appsv1.ControllerRevision{}, &appsv1.ControllerRevisionList{}, nil)

	Jobs = spec(batchv1.SchemeGroupVersion, "jobs", "Job", true, &batchv1.Job{}, &batchv1.JobList{}, func(j *batchv1.Job) map[string]string {
		return map[string]string{"status.successful": strconv.Itoa(int(j.Status.Succeeded))}
	})
	CronJobs = spec(batchv1.SchemeGroupVersion, "cronjobs", "CronJob", true, &batchv1.CronJob{}, &batchv1.CronJobList{}, nil)

	PodDisruptionBudgets = spec(policyv1.SchemeGroupVersion, "poddisruptionbudgets", "PodDisruptionBudget", true, &policyv1.PodDisruptionBudget{}, &policyv1.PodDisruptionBudgetList{}, nil)

	HorizontalPodAutoscalers = spec(autoscalingv2.SchemeGroupVersion, "horizontalpodautoscalers", "HorizontalPodAutoscaler", true, &autoscalingv2.HorizontalPodAutoscaler{}, &autoscalingv2.HorizontalPodAutoscalerList{}, nil)

	Leases = spec(coordinationv1.SchemeGroupVersion, "leases", "Lease", true, &coordinationv1.Lease{}, &coordinationv1.LeaseList{}, nil)
)

var appsSpecs = []*Spec{
	Deployments, ReplicaSets, StatefulSets, DaemonSets, ControllerRevisions,
	Jobs, CronJobs,
	PodDisruptionBudgets,
	HorizontalPodAutoscalers,
	Leases,
}
