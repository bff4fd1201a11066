package resource

// appsKinds are workloads and what goes with them.
var appsKinds = []*Kind{
	Deployments, ReplicaSets, StatefulSets, DaemonSets, ControllerRevisions,
	Jobs, CronJobs,
	PodDisruptionBudgets,
	Leases,
}
