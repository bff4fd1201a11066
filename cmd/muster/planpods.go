package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// planTimeout bounds the scheduler's part, which may place thousands of pods.
const planTimeout = time.Minute

// templates are where kinds that keep pods have a template of them.
var templates = map[string][]string{
	"ReplicationController.": {"spec", "template"},
	"ReplicaSet.apps":        {"spec", "template"},
	"Deployment.apps":        {"spec", "template"},
	"StatefulSet.apps":       {"spec", "template"},
	"DaemonSet.apps":         {"spec", "template"},
	"Job.batch":              {"spec", "template"},
	"CronJob.batch":          {"spec", "jobTemplate", "spec", "template"},
}

// planned is the object as it would be, for the scheduler. If it keeps pods, one of them
// goes through the API server, so that it is as it would be stored, with what admission
// adds, and is refused if it would be; so do claims that would be made for one.
func (m *manifest) planned(ctx context.Context, then *unstructured.Unstructured) (*clusterv1.PlanPodsObject, error) {
	raw, err := then.MarshalJSON()
	object := &clusterv1.PlanPodsObject{Object: raw}
	gk := then.GroupVersionKind().GroupKind()
	at, ok := templates[gk.Kind+"."+gk.Group]
	if err != nil || !ok {
		return object, err
	}
	template, _, err := unstructured.NestedMap(then.Object, at...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m, err)
	}
	pod := &corev1.Pod{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(template, pod); err != nil {
		return nil, fmt.Errorf("%s: template: %w", m, err)
	}
	claims, err := m.claims(then)
	if err != nil {
		return nil, fmt.Errorf("%s: claim templates: %w", m, err)
	}
	for _, claim := range claims {
		mount(pod, claim)
		raw, err := m.admitted(ctx, "persistentvolumeclaims", claim)
		if err != nil {
			return nil, fmt.Errorf("%s: a claim of it: %w", m, err)
		}
		object.Claims = append(object.Claims, raw)
	}
	pod.APIVersion, pod.Kind = "v1", "Pod"
	pod.Name, pod.Namespace, pod.GenerateName = "", m.Namespace, m.Name+"-"
	pod.OwnerReferences = []metav1.OwnerReference{{
		APIVersion: then.GetAPIVersion(), Kind: then.GetKind(), Name: then.GetName(), UID: then.GetUID(), Controller: ptr.To(true),
	}}
	if object.Pod, err = m.admitted(ctx, "pods", pod); err != nil {
		return nil, fmt.Errorf("%s: a pod of it: %w", m, err)
	}
	return object, nil
}

// claims are those of a StatefulSet's templates, for one of its pods.
func (m *manifest) claims(set *unstructured.Unstructured) ([]*corev1.PersistentVolumeClaim, error) {
	list, _, err := unstructured.NestedSlice(set.Object, "spec", "volumeClaimTemplates")
	if err != nil {
		return nil, err
	}
	var claims []*corev1.PersistentVolumeClaim
	for _, template := range list {
		claim := &corev1.PersistentVolumeClaim{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(template.(map[string]any), claim); err != nil {
			return nil, err
		}
		claim.APIVersion, claim.Kind = "v1", "PersistentVolumeClaim"
		claim.Namespace, claim.GenerateName = m.Namespace, claim.Name+"-"+m.Name+"-"
		claims = append(claims, claim)
	}
	return claims, nil
}

// mount gives a pod the volume of a claim that is made for it, in place of one that is
// called the same, and takes the claim's name away: one of that name may be there.
func mount(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) {
	volume := corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.GenerateName + "0"}}}
	others := slices.DeleteFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == claim.Name })
	pod.Spec.Volumes = append(others, volume)
	claim.Name = ""
}

// admitted is an object in the manifest's namespace as it would be stored, as JSON.
func (m *manifest) admitted(ctx context.Context, resource string, object any) ([]byte, error) {
	body, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	return answered(ctx, m.Client.Post().AbsPath("api", "v1", "namespaces", m.Namespace, resource).
		Param("dryRun", metav1.DryRunAll).SetHeader("Content-Type", runtime.ContentTypeJSON).Body(body))
}
