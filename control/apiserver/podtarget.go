package apiserver

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/musterhq/muster/control/store"
)

func badRequest(err error) error { return apierrors.NewBadRequest(err.Error()) }

// pod reads the pod that a call is about, as new as any acknowledged write.
func (s *Server) pod(ctx context.Context, c *call) (*corev1.Pod, error) {
	found, err := s.newest(ctx, c)
	if err != nil {
		return nil, err
	}
	obj, err := store.Decode(c.kind.Spec, found.Item)
	if err != nil {
		return nil, err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, errPathNotFound
	}
	return pod, nil
}

// boundPod is a pod whose node can be asked for a stream.
func (s *Server) boundPod(ctx context.Context, c *call) (*corev1.Pod, error) {
	pod, err := s.pod(ctx, c)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	return pod, nil
}

// containerOf is upstream's choice of a container, with upstream's words when
// there is none to be made.
func containerOf(pod *corev1.Pod, name string) (string, error) {
	var names []string
	for _, c := range pod.Spec.InitContainers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		names = append(names, c.Name)
	}
	switch {
	case name != "" && slices.Contains(names, name):
		return name, nil
	case name != "":
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	case len(pod.Spec.Containers) == 1:
		return pod.Spec.Containers[0].Name, nil
	case len(pod.Spec.Containers) == 0:
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, names))
}
