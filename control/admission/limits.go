package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/admission/hook"
	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// limitRanger holds pods and claims to the limit ranges of their namespace, and
// gives containers that ask for nothing what those say.
type limitRanger struct {
	byNamespace *hook.Configured[map[string][]*corev1.LimitRange]
}

func newLimitRanger(s *store.Store) *limitRanger {
	return &limitRanger{hook.NewConfigured(s, func(objects [][]store.Object, _ map[string][]*corev1.LimitRange) (map[string][]*corev1.LimitRange, error) {
		all := map[string][]*corev1.LimitRange{}
		for _, obj := range objects[0] {
			all[obj.GetNamespace()] = append(all[obj.GetNamespace()], obj.(*corev1.LimitRange))
		}
		return all, nil
	}, store.LimitRanges)}
}

func (l *limitRanger) Admit(_ context.Context, a *resource.Attributes) error {
	return l.each(a, func(limits *corev1.LimitRange) error {
		if pod, ok := a.Object.(*corev1.Pod); ok {
			return kube.ApplyLimits(limits, pod)
		}
		return nil
	})
}

func (l *limitRanger) Validate(_ context.Context, a *resource.Attributes) error {
	return l.each(a, func(limits *corev1.LimitRange) error {
		switch obj := a.Object.(type) {
		case *corev1.Pod:
			return kube.CheckPodLimits(limits, obj)
		case *corev1.PersistentVolumeClaim:
			return kube.CheckClaimLimits(limits, obj)
		}
		return nil
	})
}

// each calls do with every limit range that counts for the write. What a pod's
// containers ask for changes by resizing only; what is on its way out is left
// alone.
func (l *limitRanger) each(a *resource.Attributes, do func(*corev1.LimitRange) error) error {
	var counts bool
	switch {
	case a.Kind == resource.Pods:
		counts = a.Operation == resource.Create && a.Subresource == "" || a.Operation == resource.Update && a.Subresource == "resize"
	case a.Kind == resource.PersistentVolumeClaims:
		counts = (a.Operation == resource.Create || a.Operation == resource.Update) && a.Subresource == ""
	}
	if !counts {
		return nil
	}
	if old, ok := a.OldObject.(store.Object); ok && old.GetDeletionTimestamp() != nil {
		return nil
	}
	all, err := l.byNamespace.Now()
	if err != nil {
		return err
	}
	for _, limits := range all[a.Namespace] {
		if err := do(limits); err != nil {
			return a.Forbidden(err)
		}
	}
	return nil
}
