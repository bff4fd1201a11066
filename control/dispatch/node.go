package dispatch

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/proto/agent/fencing"
)

// register creates the agent's Node, or brings labels, annotations and status of the
// one that exists up to what the agent says; a promise to stop pods (package
// fencing) that it does not give any more goes. Spec, and other labels and
// annotations that the agent does not name, belong to the cluster and stay. It is
// called behind a read barrier.
func (d *Dispatcher) register(ctx context.Context, said *corev1.Node) error {
	nodes := d.cfg.Registry.Kind(store.Nodes.Resource)
	node := said.DeepCopy()
	node.Spec.PodCIDR, node.Spec.PodCIDRs = "", nil
	node.ResourceVersion, node.UID = "", ""
	_, err := d.cfg.Registry.Create(ctx, nodes, "", node, resource.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	if apierrors.IsAlreadyExists(err) {
		_, _, err = d.cfg.Registry.Update(ctx, nodes, "", said.Name, "", func(current store.Object) (store.Object, error) {
			node := current.(*corev1.Node)
			if node.Labels == nil {
				node.Labels = map[string]string{}
			}
			maps.Copy(node.Labels, said.Labels)
			if len(said.Annotations) > 0 && node.Annotations == nil {
				node.Annotations = map[string]string{}
			}
			maps.Copy(node.Annotations, said.Annotations)
			if _, promises := said.Annotations[fencing.NodeAnnotation]; !promises {
				delete(node.Annotations, fencing.NodeAnnotation)
			}
			return node, nil
		}, resource.UpdateOptions{FieldManager: "muster-agent"})
		if err != nil {
			return err
		}
	}
	// Creation drops status, as it does for every client.
	return d.updateNodeStatus(ctx, said.Name, &said.Status)
}

func (d *Dispatcher) storeNodeStatus(ctx context.Context, name string, raw []byte) error {
	var said corev1.NodeStatus
	if err := said.Unmarshal(raw); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("node status: %v", err))
	}
	return d.updateNodeStatus(ctx, name, &said)
}

func (d *Dispatcher) updateNodeStatus(ctx context.Context, name string, said *corev1.NodeStatus) error {
	_, _, err := d.cfg.Registry.Update(ctx, d.cfg.Registry.Kind(store.Nodes.Resource), "", name, "status", func(current store.Object) (store.Object, error) {
		node := current.(*corev1.Node)
		node.Status = mergeNodeStatus(&node.Status, said)
		return node, nil
	}, resource.UpdateOptions{FieldManager: "muster-agent"})
	return err
}

// mergeNodeStatus is what the agent says, over what is stored. Times of
// conditions that did not change stay as they were, so that an agent that
// reconnects writes nothing; conditions that the agent does not name stay.
func mergeNodeStatus(stored, said *corev1.NodeStatus) corev1.NodeStatus {
	merged := *said.DeepCopy()
	before := map[corev1.NodeConditionType]corev1.NodeCondition{}
	for _, c := range stored.Conditions {
		before[c.Type] = c
	}
	for i, c := range merged.Conditions {
		old, ok := before[c.Type]
		delete(before, c.Type)
		switch {
		case ok && old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message:
			merged.Conditions[i] = old
		case ok && old.Status == c.Status:
			merged.Conditions[i].LastTransitionTime = old.LastTransitionTime
		case c.LastTransitionTime.IsZero():
			merged.Conditions[i].LastTransitionTime = metav1.Now()
		}
	}
	for _, c := range stored.Conditions {
		if _, unnamed := before[c.Type]; unnamed {
			merged.Conditions = append(merged.Conditions, c)
		}
	}
	if merged.Phase == "" {
		merged.Phase = stored.Phase
	}
	if merged.VolumesAttached == nil {
		merged.VolumesAttached = stored.VolumesAttached
	}
	return merged
}
