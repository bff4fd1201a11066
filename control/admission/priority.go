package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/resource"
)

// The priority classes that exist without being made: upstream's for what a
// cluster cannot do without.
const (
	systemClusterCritical = "system-cluster-critical"
	systemNodeCritical    = "system-node-critical"
	systemPriorityBase    = 2_000_000_000
)

var priorityClasses = map[string]int32{
	"":                    0,
	systemClusterCritical: systemPriorityBase,
	systemNodeCritical:    systemPriorityBase + 1000,
}

// podPriority gives a new pod the number that its priority class stands for,
// which users name and never write themselves.
type podPriority struct{ mutating }

func (podPriority) Admit(_ context.Context, a *resource.Attributes) error {
	if a.Kind != resource.Pods || a.Subresource != "" {
		return nil
	}
	switch a.Operation {
	case resource.Create:
		return setPriority(a, &a.Object.(*corev1.Pod).Spec)
	case resource.Update:
		// Clients that do not know the fields drop them.
		spec, old := &a.Object.(*corev1.Pod).Spec, &a.OldObject.(*corev1.Pod).Spec
		if spec.Priority == nil {
			spec.Priority = old.Priority
		}
		if spec.PreemptionPolicy == nil {
			spec.PreemptionPolicy = old.PreemptionPolicy
		}
	}
	return nil
}

func setPriority(a *resource.Attributes, spec *corev1.PodSpec) error {
	priority, ok := priorityClasses[spec.PriorityClassName]
	if !ok {
		return a.Forbidden(fmt.Errorf("no PriorityClass with name %v was found", spec.PriorityClassName))
	}
	if spec.Priority != nil && *spec.Priority != priority {
		return a.Forbidden(fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; "+
			"priority admission controller computed %d from the given PriorityClass name", *spec.Priority, priority))
	}
	policy := corev1.PreemptLowerPriority
	if spec.PreemptionPolicy != nil && *spec.PreemptionPolicy != policy {
		return a.Forbidden(fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; "+
			"priority admission controller computed %s from the given PriorityClass name", *spec.PreemptionPolicy, policy))
	}
	spec.Priority, spec.PreemptionPolicy = &priority, &policy
	return nil
}
