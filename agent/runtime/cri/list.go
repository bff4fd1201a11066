package cri

import (
	"context"
	"errors"
	"slices"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/musterhq/muster/agent/runtime"
)

func (r *Runtime) Pods(ctx context.Context) ([]runtime.Pod, error) {
	byUID, err := r.list(ctx, nil)
	if err != nil {
		return nil, err
	}
	r.removeLeftovers(ctx) // here, as all pods are looked at once in a while
	pods := make([]runtime.Pod, 0, len(byUID))
	for _, p := range byUID {
		pods = append(pods, *p)
	}
	return pods, nil
}

func (r *Runtime) Pod(ctx context.Context, uid string) (runtime.Pod, error) {
	byUID, err := r.list(ctx, map[string]string{runtime.LabelPodUID: uid})
	if err != nil {
		return runtime.Pod{}, err
	}
	pod := byUID[uid]
	if pod == nil {
		return runtime.Pod{UID: uid}, nil
	}
	for i := range pod.Sandboxes {
		box := &pod.Sandboxes[i]
		status, err := r.runtime.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: box.ID})
		if err != nil {
			if err = fault("ask for the status of sandbox "+box.ID, err); errors.Is(err, runtime.ErrNotFound) {
				continue // removed since it was listed
			}
			return runtime.Pod{}, err
		}
		box.Ready = status.GetStatus().GetState() == criv1.PodSandboxState_SANDBOX_READY
		network := status.GetStatus().GetNetwork()
		if network.GetIp() != "" {
			box.IPs = append(box.IPs, network.GetIp())
			for _, more := range network.GetAdditionalIps() {
				box.IPs = append(box.IPs, more.GetIp())
			}
		}
		containers := box.Containers[:0]
		for _, c := range box.Containers {
			full, err := r.container(ctx, c)
			if errors.Is(err, runtime.ErrNotFound) {
				continue
			} else if err != nil {
				return runtime.Pod{}, err
			}
			containers = append(containers, full)
		}
		box.Containers = containers
	}
	return *pod, nil
}

func (r *Runtime) list(ctx context.Context, labels map[string]string) (map[string]*runtime.Pod, error) {
	// Containers first: a container's sandbox is then in the list that follows.
	containers, err := r.runtime.ListContainers(ctx, &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{LabelSelector: labels}})
	if err != nil {
		return nil, fault("list containers", err)
	}
	sandboxes, err := r.runtime.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{Filter: &criv1.PodSandboxFilter{LabelSelector: labels}})
	if err != nil {
		return nil, fault("list sandboxes", err)
	}
	inside := map[string][]runtime.Container{}
	for _, c := range containers.Containers {
		inside[c.PodSandboxId] = append(inside[c.PodSandboxId], runtime.Container{
			ID: c.Id, Name: c.GetMetadata().GetName(), Attempt: c.GetMetadata().GetAttempt(),
			State: stateOf(c.State), CreatedAt: time.Unix(0, c.CreatedAt),
		})
	}
	pods := map[string]*runtime.Pod{}
	for _, s := range sandboxes.Items {
		uid := s.GetMetadata().GetUid()
		if uid == "" || s.GetLabels()[runtime.LabelPodUID] != uid {
			continue // somebody else's
		}
		pod := pods[uid]
		if pod == nil {
			pod = &runtime.Pod{UID: uid, Namespace: s.GetMetadata().GetNamespace(), Name: s.GetMetadata().GetName()}
			pods[uid] = pod
		}
		box := runtime.Sandbox{
			ID: s.Id, Attempt: s.GetMetadata().GetAttempt(), CreatedAt: time.Unix(0, s.CreatedAt),
			Ready: s.State == criv1.PodSandboxState_SANDBOX_READY, Containers: inside[s.Id],
		}
		slices.SortFunc(box.Containers, func(a, b runtime.Container) int { return b.CreatedAt.Compare(a.CreatedAt) })
		pod.Sandboxes = append(pod.Sandboxes, box)
	}
	for _, pod := range pods {
		slices.SortFunc(pod.Sandboxes, func(a, b runtime.Sandbox) int { return b.CreatedAt.Compare(a.CreatedAt) })
	}
	return pods, nil
}

// container tells all about c.
func (r *Runtime) container(ctx context.Context, c runtime.Container) (runtime.Container, error) {
	answer, err := r.runtime.ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: c.ID})
	if err != nil {
		return c, fault("ask for the status of container "+c.ID, err)
	}
	s := answer.GetStatus()
	c.State = stateOf(s.State)
	c.StartedAt, c.FinishedAt = moment(s.StartedAt), moment(s.FinishedAt)
	c.ExitCode, c.Reason, c.Message = s.ExitCode, s.Reason, s.Message
	c.Image = s.GetImage().GetUserSpecifiedImage()
	if c.Image == "" {
		c.Image = s.GetImage().GetImage()
	}
	c.ImageID = s.ImageRef
	c.LogPath = s.LogPath
	c.Annotations = s.Annotations
	return c, nil
}

func moment(nanoseconds int64) time.Time {
	if nanoseconds <= 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds)
}

func stateOf(s criv1.ContainerState) runtime.State {
	switch s {
	case criv1.ContainerState_CONTAINER_CREATED:
		return runtime.Created
	case criv1.ContainerState_CONTAINER_RUNNING:
		return runtime.Running
	case criv1.ContainerState_CONTAINER_EXITED:
		return runtime.Exited
	}
	return runtime.Unknown
}
