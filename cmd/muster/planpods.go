package main

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// planTimeout bounds the scheduler's part, which may place thousands of pods.
const planTimeout = time.Minute

// workload is how many pods a kind keeps, and whether it replaces them when their
// template changes.
type workload struct {
	count    []string // field
	replaces bool
}

var workloads = map[string]workload{
	"ReplicationController.": {[]string{"spec", "replicas"}, false},
	"ReplicaSet.apps":        {[]string{"spec", "replicas"}, false},
	"Deployment.apps":        {[]string{"spec", "replicas"}, true},
	"StatefulSet.apps":       {[]string{"spec", "replicas"}, true},
	"Job.batch":              {[]string{"spec", "parallelism"}, false},
}

// podsOf says which pods there would be of an object, nil for none that can be
// planned. One of them goes through the API server, so that it is as it would be
// stored, with what admission adds, and is refused if it would be.
func (m *manifest) podsOf(ctx context.Context, live, then *unstructured.Unstructured) (*clusterv1.PlanPodsGroup, error) {
	gk := then.GroupVersionKind().GroupKind()
	if gk.Kind == "Pod" && gk.Group == "" {
		if live != nil {
			return nil, nil // it stays where it is
		}
		raw, err := then.MarshalJSON()
		return &clusterv1.PlanPodsGroup{Pod: raw, Desired: 1}, err
	}
	kind, ok := workloads[gk.Kind+"."+gk.Group]
	if !ok {
		return nil, nil
	}
	count, _, err := unstructured.NestedInt64(then.Object, kind.count...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m, err)
	}
	if suspended, _, _ := unstructured.NestedBool(then.Object, "spec", "suspend"); suspended {
		count = 0
	}
	template, _, err := unstructured.NestedMap(then.Object, "spec", "template")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m, err)
	}
	group := &clusterv1.PlanPodsGroup{Desired: uint32(max(0, count))}
	if live != nil {
		group.Owner = string(live.GetUID())
		before, _, _ := unstructured.NestedMap(live.Object, "spec", "template")
		group.Replaced = kind.replaces && !reflect.DeepEqual(before, template)
	}
	pod := &corev1.Pod{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(template, pod); err != nil {
		return nil, fmt.Errorf("%s: template: %w", m, err)
	}
	ownVolumes(pod, then)
	pod.Name, pod.Namespace, pod.GenerateName = "", m.Namespace, m.Name+"-"
	yes := true
	pod.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: then.GetAPIVersion(), Kind: then.GetKind(), Name: then.GetName(), UID: then.GetUID(), Controller: &yes,
	}}
	group.Pod, err = admitted(ctx, m.Client, pod)
	if err != nil {
		return nil, fmt.Errorf("%s: a pod of it: %w", m, err)
	}
	return group, nil
}

// ownVolumes stands in for the claims that a StatefulSet makes for each pod.
func ownVolumes(pod *corev1.Pod, set *unstructured.Unstructured) {
	claims, _, _ := unstructured.NestedSlice(set.Object, "spec", "volumeClaimTemplates")
	for _, claim := range claims {
		name, _, _ := unstructured.NestedString(claim.(map[string]any), "metadata", "name")
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	}
}

// admitted is a pod as it would be stored, as JSON.
func admitted(ctx context.Context, client restClient, pod *corev1.Pod) ([]byte, error) {
	pod.APIVersion, pod.Kind = "v1", "Pod"
	body, err := json.Marshal(pod)
	if err != nil {
		return nil, err
	}
	return client.Post().AbsPath("api", "v1", "namespaces", pod.Namespace, "pods").
		Param("dryRun", metav1.DryRunAll).SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body).DoRaw(ctx)
}

// restClient is what the builder gives for a kind; its address is overridden.
type restClient interface{ Post() *rest.Request }
