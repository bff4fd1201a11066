package resource

// appsKinds are workloads and what goes with them.
var appsKinds = []*Kind{
	Deployments, ReplicaSets, StatefulSets, DaemonSets, ControllerRevisions,
	Jobs, CronJobs,
	PodDisruptionBudgets,
	HorizontalPodAutoscalers,
	Leases,
}

// clusterKinds are what a cluster is run by.
var clusterKinds = []*Kind{
	StorageClasses, VolumeAttachments, VolumeAttributesClasses, CSIDrivers, CSINodes, CSIStorageCapacities,
	PriorityClasses, RuntimeClasses,
	CertificateSigningRequests, ClusterTrustBundles, PodCertificateRequests,
	FlowSchemas, PriorityLevelConfigurations,
	StorageVersionMigrations,
}
