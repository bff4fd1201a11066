package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helpers "k8s.io/component-helpers/resource"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// podResize refuses to resize a pod to more than its node has at all: the node
// could never do it.
type podResize struct{ store *store.Store }

func (podResize) Admit(context.Context, *resource.Attributes) error { return nil }

func (r podResize) Validate(ctx context.Context, a *resource.Attributes) error {
	if a.Kind != resource.Pods || a.Subresource != "resize" || a.Operation != resource.Update {
		return nil
	}
	pod := a.Object.(*corev1.Pod)
	if pod.Spec.NodeName == "" || pod.Generation == a.OldObject.(*corev1.Pod).Generation {
		return nil
	}
	node, err := store.Of[*corev1.Node](r.store, store.Nodes).Get(ctx, "", pod.Spec.NodeName)
	if errors.Is(err, store.ErrNotFound) {
		return a.Forbidden(fmt.Errorf("node %q not found", pod.Spec.NodeName))
	}
	if err != nil {
		return err
	}
	refuse := func(reason metav1.CauseType, err error) error {
		refused := a.Forbidden(err)
		refused.ErrStatus.Details.Causes = append(refused.ErrStatus.Details.Causes, metav1.StatusCause{Type: reason})
		return refused
	}
	if system := node.Labels[corev1.LabelOSStable]; system != "" && system != "linux" {
		return refuse("UnsupportedPlatform", fmt.Errorf("pod resize is only supported on linux nodes, node %q is %q", node.Name, system))
	}
	requests := helpers.PodRequests(pod, helpers.PodResourcesOptions{})
	var missing []string
	if cpu, has := requests.Cpu(), node.Status.Allocatable.Cpu(); cpu.Cmp(*has) > 0 {
		missing = append(missing, fmt.Sprintf("cpu, requested: %d, allocatable: %d", cpu.MilliValue(), has.MilliValue()))
	}
	if memory, has := requests.Memory(), node.Status.Allocatable.Memory(); memory.Cmp(*has) > 0 {
		missing = append(missing, fmt.Sprintf("memory, requested: %d, allocatable: %d", memory.Value(), has.Value()))
	}
	if len(missing) > 0 {
		return refuse("NodeCapacity", fmt.Errorf("node didn't have enough allocatable resources: %s", strings.Join(missing, "; ")))
	}
	return nil
}
