package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/admission/hook"
	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// podPriority gives a new pod the number that its priority class stands for,
// which users name and never write themselves, and lets one class alone be that
// of pods that name none.
type podPriority struct {
	store   *store.Store
	classes *hook.Configured[priorities]
}

// priorities are the priority classes.
type priorities struct {
	byName map[string]*schedulingv1.PriorityClass
	// standard is for pods that name none; nil: there is no such class.
	standard *schedulingv1.PriorityClass
}

// noClass is what pods get in a cluster without a class for them.
var noClass = &schedulingv1.PriorityClass{PreemptionPolicy: ptr.To(corev1.PreemptLowerPriority)}

func newPodPriority(s *store.Store) *podPriority {
	return &podPriority{store: s, classes: hook.NewConfigured(s, func(objects [][]store.Object, _ priorities) (priorities, error) {
		all := priorities{byName: map[string]*schedulingv1.PriorityClass{}}
		// Those of upstream's that a cluster cannot do without count before they are
		// stored: what makes them is a duty of the leader, and may come after pods.
		for _, class := range kube.SystemPriorityClasses() {
			all.byName[class.Name] = class
		}
		for _, obj := range objects[0] {
			class := obj.(*schedulingv1.PriorityClass)
			all.byName[class.Name] = class
			// Two can only be there by a race; upstream takes the lower one.
			if class.GlobalDefault && (all.standard == nil || class.Value < all.standard.Value) {
				all.standard = class
			}
		}
		return all, nil
	}, store.PriorityClasses)}
}

func (p *podPriority) Admit(ctx context.Context, a *resource.Attributes) error {
	if a.Kind != resource.Pods || a.Subresource != "" {
		return nil
	}
	switch a.Operation {
	case resource.Create:
		return p.set(ctx, a, &a.Object.(*corev1.Pod).Spec)
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

func (p *podPriority) set(ctx context.Context, a *resource.Attributes, spec *corev1.PodSpec) error {
	class, err := p.class(ctx, a, spec.PriorityClassName)
	if err != nil {
		return err
	}
	if spec.Priority != nil && *spec.Priority != class.Value {
		return a.Forbidden(fmt.Errorf("the integer value of priority (%d) must not be provided in pod spec; "+
			"priority admission controller computed %d from the given PriorityClass name", *spec.Priority, class.Value))
	}
	spec.PriorityClassName, spec.Priority = class.Name, ptr.To(class.Value)
	if class.PreemptionPolicy == nil {
		return nil
	}
	if spec.PreemptionPolicy != nil && *spec.PreemptionPolicy != *class.PreemptionPolicy {
		return a.Forbidden(fmt.Errorf("the string value of PreemptionPolicy (%s) must not be provided in pod spec; "+
			"priority admission controller computed %s from the given PriorityClass name", *spec.PreemptionPolicy, *class.PreemptionPolicy))
	}
	spec.PreemptionPolicy = ptr.To(*class.PreemptionPolicy)
	return nil
}

// class finds the class of a name, or that of pods without one.
func (p *podPriority) class(ctx context.Context, a *resource.Attributes, name string) (*schedulingv1.PriorityClass, error) {
	for current := false; ; current = true {
		classes, err := p.classes.Now()
		switch {
		case err != nil:
			return nil, err
		case name == "" && classes.standard != nil:
			return classes.standard, nil
		case name == "":
			return noClass, nil
		case classes.byName[name] != nil:
			return classes.byName[name], nil
		case current:
			return nil, a.Forbidden(fmt.Errorf("no PriorityClass with name %v was found", name))
		}
		// It may have been created a moment ago through another node.
		if err := p.store.ReadBarrier(ctx); err != nil {
			return nil, err
		}
	}
}

func (p *podPriority) Validate(_ context.Context, a *resource.Attributes) error {
	if a.Kind != resource.PriorityClasses || a.Subresource != "" || a.Operation != resource.Create && a.Operation != resource.Update {
		return nil
	}
	class := a.Object.(*schedulingv1.PriorityClass)
	if !class.GlobalDefault {
		return nil
	}
	classes, err := p.classes.Now()
	if err != nil {
		return err
	}
	if there := classes.standard; there != nil && (a.Operation == resource.Create || there.Name != class.Name) {
		return a.Forbidden(fmt.Errorf("PriorityClass %v is already marked as default. Only one default can exist", there.Name))
	}
	return nil
}
