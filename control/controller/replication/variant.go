package replication

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// variant is what the two kinds differ in.
type variant[T store.Object] struct {
	kind      *resource.Kind
	component string
	cache     *store.Cache[T]
	// view shows an object as a ReplicaSet, which shares with it and is not changed.
	view      func(T) *appsv1.ReplicaSet
	setStatus func(T, appsv1.ReplicaSetStatus)
	// tellsTerminating says that the kind's status has terminatingReplicas.
	tellsTerminating bool
}

func replicaSets(caches *controller.Caches) variant[*appsv1.ReplicaSet] {
	return variant[*appsv1.ReplicaSet]{
		kind:      resource.ReplicaSets,
		component: "replicaset-controller",
		cache:     caches.ReplicaSets,
		view:      func(rs *appsv1.ReplicaSet) *appsv1.ReplicaSet { return rs },
		setStatus: func(rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) { rs.Status = status },

		tellsTerminating: true,
	}
}

func replicationControllers(caches *controller.Caches) variant[*corev1.ReplicationController] {
	return variant[*corev1.ReplicationController]{
		kind:      resource.ReplicationControllers,
		component: "replication-controller",
		cache:     caches.ReplicationControllers,
		view:      asReplicaSet,
		setStatus: setControllerStatus,
	}
}

func asReplicaSet(rc *corev1.ReplicationController) *appsv1.ReplicaSet {
	set := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        rc.Spec.Replicas,
			MinReadySeconds: rc.Spec.MinReadySeconds,
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas:             rc.Status.Replicas,
			FullyLabeledReplicas: rc.Status.FullyLabeledReplicas,
			ReadyReplicas:        rc.Status.ReadyReplicas,
			AvailableReplicas:    rc.Status.AvailableReplicas,
			ObservedGeneration:   rc.Status.ObservedGeneration,
		},
	}
	if rc.Spec.Template != nil {
		set.Spec.Template = *rc.Spec.Template
	}
	// Without a selector it selects nothing.
	if len(rc.Spec.Selector) > 0 {
		set.Spec.Selector = &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}
	}
	for _, c := range rc.Status.Conditions {
		set.Status.Conditions = append(set.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return set
}

func setControllerStatus(rc *corev1.ReplicationController, status appsv1.ReplicaSetStatus) {
	rc.Status = corev1.ReplicationControllerStatus{
		Replicas:             status.Replicas,
		FullyLabeledReplicas: status.FullyLabeledReplicas,
		ReadyReplicas:        status.ReadyReplicas,
		AvailableReplicas:    status.AvailableReplicas,
		ObservedGeneration:   status.ObservedGeneration,
	}
	for _, c := range status.Conditions {
		rc.Status.Conditions = append(rc.Status.Conditions, corev1.ReplicationControllerCondition{
			Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
}
