package cri

import (
	"context"
	"errors"
	"maps"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/musterhq/muster/agent/runtime"
)

func (r *Runtime) CreateContainer(ctx context.Context, sandboxID string, sandbox *runtime.SandboxConfig, c *runtime.ContainerConfig) (string, error) {
	config := &criv1.ContainerConfig{
		Metadata:    &criv1.ContainerMetadata{Name: c.Name, Attempt: c.Attempt},
		Image:       &criv1.ImageSpec{Image: c.ImageID, UserSpecifiedImage: c.Image},
		Command:     c.Command,
		Args:        c.Args,
		WorkingDir:  c.WorkingDir,
		Labels:      maps.Clone(c.Labels),
		Annotations: c.Annotations,
		LogPath:     c.LogPath,
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		Linux: &criv1.LinuxContainerConfig{
			Resources: &criv1.LinuxContainerResources{
				CpuShares: c.Resources.CPUShares, CpuQuota: c.Resources.CPUQuota, CpuPeriod: c.Resources.CPUPeriod,
				MemoryLimitInBytes: c.Resources.MemoryBytes, OomScoreAdj: c.Resources.OOMScoreAdj,
			},
			SecurityContext: &criv1.LinuxContainerSecurityContext{
				Privileged:         c.Security.Privileged,
				NamespaceOptions:   namespaceOptions(sandbox.Security),
				Capabilities:       &criv1.Capability{AddCapabilities: c.Security.AddCapabilities, DropCapabilities: c.Security.DropCapabilities},
				RunAsUser:          number(c.Security.RunAsUser),
				RunAsUsername:      c.Security.RunAsUserName,
				SupplementalGroups: c.Security.Groups,
				ReadonlyRootfs:     c.Security.ReadOnlyRootFilesystem,
				NoNewPrivs:         !c.Security.AllowPrivilegeEscalation,
				Seccomp:            seccomp(c.Security.Seccomp),
				MaskedPaths:        c.Security.MaskedPaths,
				ReadonlyPaths:      c.Security.ReadOnlyPaths,
			},
		},
	}
	if c.Security.RunAsUser != nil || c.Security.RunAsUserName != "" {
		config.Linux.SecurityContext.RunAsGroup = number(c.Security.RunAsGroup)
	}
	if config.Labels == nil {
		config.Labels = map[string]string{}
	}
	config.Labels[runtime.LabelPodName] = sandbox.Name
	config.Labels[runtime.LabelPodNamespace] = sandbox.Namespace
	config.Labels[runtime.LabelPodUID] = sandbox.UID
	config.Labels[runtime.LabelContainerName] = c.Name
	for _, e := range c.Env {
		config.Envs = append(config.Envs, &criv1.KeyValue{Key: e.Name, Value: []byte(e.Value)})
	}
	for _, m := range c.Mounts {
		config.Mounts = append(config.Mounts, &criv1.Mount{
			HostPath: m.HostPath, ContainerPath: m.ContainerPath, Readonly: m.ReadOnly, Propagation: propagation(m.Propagation),
		})
	}
	for _, d := range c.Devices {
		config.Devices = append(config.Devices, &criv1.Device{HostPath: d, ContainerPath: d, Permissions: "mrw"})
	}
	answer, err := r.runtime.CreateContainer(ctx, &criv1.CreateContainerRequest{
		PodSandboxId: sandboxID, Config: config, SandboxConfig: r.sandboxConfig(sandbox),
	})
	if err != nil {
		return "", fault("create container", err)
	}
	return answer.ContainerId, nil
}

func propagation(p runtime.Propagation) criv1.MountPropagation {
	switch p {
	case runtime.HostToContainer:
		return criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case runtime.Bidirectional:
		return criv1.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	return criv1.MountPropagation_PROPAGATION_PRIVATE
}

func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	_, err := r.runtime.StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: id})
	return faultOrNil("start container", err)
}

func (r *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	// CRI counts in seconds, and its own kill needs a moment.
	_, err := r.runtime.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: id, Timeout: int64((grace + time.Second - 1) / time.Second)})
	if err = faultOrNil("stop container "+id, err); err != nil && !errors.Is(err, runtime.ErrNotFound) {
		return err
	}
	return nil
}

func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	_, err := r.runtime.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: id})
	if err = faultOrNil("remove container "+id, err); err != nil && !errors.Is(err, runtime.ErrNotFound) {
		return err
	}
	return nil
}

func (r *Runtime) ReopenLog(ctx context.Context, id string) error {
	_, err := r.runtime.ReopenContainerLog(ctx, &criv1.ReopenContainerLogRequest{ContainerId: id})
	return faultOrNil("reopen the log of container "+id, err)
}
