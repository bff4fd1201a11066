package controller

import (
	"context"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

// Indexes of Caches.
const (
	// PodsByNode finds the pods bound to a node by its name.
	PodsByNode = "node"
	// PodsOnTheirOwn finds, by namespace, pods that no controller keeps.
	PodsOnTheirOwn = "on-their-own"
	// SetsOnTheirOwn is the same of replica sets.
	SetsOnTheirOwn = PodsOnTheirOwn
	// ByController finds objects by the UID of the controller that keeps them.
	ByController = "controller"
	// ByNamespace finds objects by namespace.
	ByNamespace = "namespace"
	// ByOwner finds objects by the UID of each of their owners.
	ByOwner = "owner"
	// ByClaim finds, by namespace/name of a claim, pods that use it, and volumes that
	// are, or are to be, bound to it; and by "" the volumes that are anybody's.
	ByClaim = "claim"
	// ByVolume finds claims by the volume that they are bound to or ask for, and by ""
	// those without one.
	ByVolume = "volume"
)

// Caches are the decoded copies that the scheduler and all controllers of a
// term share: every object is decoded once however many look at it. Objects in
// them must not be changed.
//
// Order matters: make the caches, make everything that listens to them, then
// Run. Whoever reads waits for Synced first.
type Caches struct {
	Pods                   *store.Cache[*corev1.Pod]
	Nodes                  *store.Cache[*corev1.Node]
	Namespaces             *store.Cache[*corev1.Namespace]
	ReplicationControllers *store.Cache[*corev1.ReplicationController]
	ReplicaSets            *store.Cache[*appsv1.ReplicaSet]
	Deployments            *store.Cache[*appsv1.Deployment]
	DaemonSets             *store.Cache[*appsv1.DaemonSet]
	ControllerRevisions    *store.Cache[*appsv1.ControllerRevision]
	Jobs                   *store.Cache[*batchv1.Job]
	CronJobs               *store.Cache[*batchv1.CronJob]
	StatefulSets           *store.Cache[*appsv1.StatefulSet]
	PodDisruptionBudgets   *store.Cache[*policyv1.PodDisruptionBudget]
	Services               *store.Cache[*corev1.Service]
	PersistentVolumeClaims *store.Cache[*corev1.PersistentVolumeClaim]
	PersistentVolumes      *store.Cache[*corev1.PersistentVolume]
	StorageClasses         *store.Cache[*storagev1.StorageClass]
	CSINodes               *store.Cache[*storagev1.CSINode]
	CSIDrivers             *store.Cache[*storagev1.CSIDriver]
	CSIStorageCapacities   *store.Cache[*storagev1.CSIStorageCapacity]
	VolumeAttachments      *store.Cache[*storagev1.VolumeAttachment]

	all []runner
}

type runner interface {
	Run(context.Context) error
	Synced() <-chan struct{}
}

// NewCaches prepares caches of what s holds; they are empty until Run.
func NewCaches(s *store.Store) *Caches {
	c := &Caches{
		Pods: store.NewCache(s, store.Pods, map[string]func(*corev1.Pod) []string{
			PodsByNode: func(p *corev1.Pod) []string {
				if p.Spec.NodeName == "" {
					return nil
				}
				return []string{p.Spec.NodeName}
			},
			PodsOnTheirOwn: onTheirOwn[*corev1.Pod],
			ByNamespace:    namespaces[*corev1.Pod],
			ByController:   controllers[*corev1.Pod],
			ByOwner:        owners[*corev1.Pod],
			ByClaim:        claimKeys,
		}),
		Nodes:                  store.NewCache[*corev1.Node](s, store.Nodes, nil),
		Namespaces:             store.NewCache[*corev1.Namespace](s, store.Namespaces, nil),
		ReplicationControllers: store.NewCache(s, store.ReplicationControllers, indexes[*corev1.ReplicationController]()),
		ReplicaSets: store.NewCache(s, store.ReplicaSets, map[string]func(*appsv1.ReplicaSet) []string{
			SetsOnTheirOwn: onTheirOwn[*appsv1.ReplicaSet],
			ByNamespace:    namespaces[*appsv1.ReplicaSet],
			ByController:   controllers[*appsv1.ReplicaSet],
			ByOwner:        owners[*appsv1.ReplicaSet],
		}),
		Deployments:          store.NewCache(s, store.Deployments, indexes[*appsv1.Deployment]()),
		DaemonSets:           store.NewCache(s, store.DaemonSets, indexes[*appsv1.DaemonSet]()),
		ControllerRevisions:  store.NewCache(s, store.ControllerRevisions, indexes[*appsv1.ControllerRevision]()),
		Jobs:                 store.NewCache(s, store.Jobs, indexes[*batchv1.Job]()),
		CronJobs:             store.NewCache(s, store.CronJobs, indexes[*batchv1.CronJob]()),
		StatefulSets:         store.NewCache(s, store.StatefulSets, indexes[*appsv1.StatefulSet]()),
		PodDisruptionBudgets: store.NewCache(s, store.PodDisruptionBudgets, indexes[*policyv1.PodDisruptionBudget]()),
		Services:             store.NewCache(s, store.Services, indexes[*corev1.Service]()),
		PersistentVolumeClaims: store.NewCache(s, store.PersistentVolumeClaims, map[string]func(*corev1.PersistentVolumeClaim) []string{
			ByVolume: func(c *corev1.PersistentVolumeClaim) []string { return []string{c.Spec.VolumeName} },
		}),
		PersistentVolumes: store.NewCache(s, store.PersistentVolumes, map[string]func(*corev1.PersistentVolume) []string{
			ByClaim: func(v *corev1.PersistentVolume) []string {
				if v.Spec.ClaimRef == nil {
					return []string{""}
				}
				return []string{v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name}
			},
		}),
		StorageClasses:       store.NewCache[*storagev1.StorageClass](s, store.StorageClasses, nil),
		CSINodes:             store.NewCache[*storagev1.CSINode](s, store.CSINodes, nil),
		CSIDrivers:           store.NewCache[*storagev1.CSIDriver](s, store.CSIDrivers, nil),
		CSIStorageCapacities: store.NewCache[*storagev1.CSIStorageCapacity](s, store.CSIStorageCapacities, nil),
		VolumeAttachments:    store.NewCache[*storagev1.VolumeAttachment](s, store.VolumeAttachments, nil),
	}
	c.all = []runner{
		c.Pods, c.Nodes, c.Namespaces, c.ReplicationControllers, c.ReplicaSets, c.Deployments, c.DaemonSets, c.StatefulSets,
		c.ControllerRevisions, c.Jobs, c.CronJobs, c.PodDisruptionBudgets, c.Services,
		c.PersistentVolumeClaims, c.PersistentVolumes, c.StorageClasses, c.CSINodes,
		c.CSIDrivers, c.CSIStorageCapacities, c.VolumeAttachments,
	}
	return c
}

func indexes[T metav1.Object]() map[string]func(T) []string {
	return map[string]func(T) []string{
		ByNamespace:  namespaces[T],
		ByController: controllers[T],
		ByOwner:      owners[T],
	}
}

func namespaces[T metav1.Object](obj T) []string { return []string{obj.GetNamespace()} }

func onTheirOwn[T metav1.Object](obj T) []string {
	if metav1.GetControllerOfNoCopy(obj) != nil {
		return nil
	}
	return []string{obj.GetNamespace()}
}

func controllers[T metav1.Object](obj T) []string {
	if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
		return []string{string(ref.UID)}
	}
	return nil
}

func owners[T metav1.Object](obj T) []string {
	var uids []string
	for _, ref := range obj.GetOwnerReferences() {
		uids = append(uids, string(ref.UID))
	}
	return uids
}

// claimKeys are the claims that a pod uses, as ByClaim has them.
func claimKeys(p *corev1.Pod) []string {
	names := ClaimsOf(p)
	for i, name := range names {
		names[i] = p.Namespace + "/" + name
	}
	return names
}

// Run keeps the caches current until ctx ends.
func (c *Caches) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, cache := range c.all {
		g.Go(func() error { return cache.Run(ctx) })
	}
	return g.Wait()
}

// Synced waits until every cache holds what was stored when Run began; false
// when ctx ended before.
func (c *Caches) Synced(ctx context.Context) bool {
	for _, cache := range c.all {
		select {
		case <-cache.Synced():
		case <-ctx.Done():
			return false
		}
	}
	return true
}
