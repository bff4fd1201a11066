package cri

import (
	"context"
	"errors"
	"maps"
	"path"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/musterhq/muster/agent/runtime"
)

func (r *Runtime) RunSandbox(ctx context.Context, config *runtime.SandboxConfig) (string, error) {
	r.leftovers.begin(config.UID)
	answer, err := r.runtime.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{
		Config:         r.sandboxConfig(config),
		RuntimeHandler: config.RuntimeHandler,
	})
	if err != nil {
		r.leftovers.failed(config.UID, time.Now())
		return "", fault("run sandbox", err)
	}
	return answer.PodSandboxId, nil
}

func (r *Runtime) StopSandbox(ctx context.Context, id string) error {
	_, err := r.runtime.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: id})
	if err = faultOrNil("stop sandbox "+id, err); err != nil && !errors.Is(err, runtime.ErrNotFound) {
		return err
	}
	return nil
}

// RemoveSandbox also removes the pod's cgroup with its last sandbox: CRI makes
// it and leaves it behind.
func (r *Runtime) RemoveSandbox(ctx context.Context, id string) error {
	status, err := r.runtime.PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: id})
	if err = faultOrNil("ask for the status of sandbox "+id, err); err != nil && !errors.Is(err, runtime.ErrNotFound) {
		return err
	}
	_, err = r.runtime.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: id})
	if err = faultOrNil("remove sandbox "+id, err); err != nil && !errors.Is(err, runtime.ErrNotFound) {
		return err
	}
	uid := status.GetStatus().GetMetadata().GetUid()
	if uid == "" {
		return nil
	}
	left, err := r.runtime.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{Filter: &criv1.PodSandboxFilter{LabelSelector: map[string]string{runtime.LabelPodUID: uid}}})
	if err != nil {
		return fault("list sandboxes", err)
	}
	if len(left.Items) > 0 {
		return nil
	}
	return removeCgroup(ctx, r.cgroupOf(uid))
}

func (r *Runtime) cgroupOf(uid string) string { return path.Join(r.cfg.CgroupParent, "pod"+uid) }

func faultOrNil(doing string, err error) error {
	if err == nil {
		return nil
	}
	return fault(doing, err)
}

func (r *Runtime) sandboxConfig(c *runtime.SandboxConfig) *criv1.PodSandboxConfig {
	config := &criv1.PodSandboxConfig{
		Metadata:     &criv1.PodSandboxMetadata{Name: c.Name, Namespace: c.Namespace, Uid: c.UID, Attempt: c.Attempt},
		Hostname:     c.Hostname,
		LogDirectory: c.LogDir,
		Labels:       maps.Clone(c.Labels),
		Annotations:  c.Annotations,
		Linux: &criv1.LinuxPodSandboxConfig{
			CgroupParent: r.cgroupOf(c.UID),
			Sysctls:      c.Security.Sysctls,
			SecurityContext: &criv1.LinuxSandboxSecurityContext{
				NamespaceOptions:   namespaceOptions(c.Security),
				Privileged:         c.Security.Privileged,
				Seccomp:            seccomp(c.Security.Seccomp),
				RunAsUser:          number(c.Security.RunAsUser),
				SupplementalGroups: c.Security.Groups,
			},
		},
	}
	if c.Security.RunAsUser != nil {
		config.Linux.SecurityContext.RunAsGroup = number(c.Security.RunAsGroup)
	}
	if config.Labels == nil {
		config.Labels = map[string]string{}
	}
	config.Labels[runtime.LabelPodName] = c.Name
	config.Labels[runtime.LabelPodNamespace] = c.Namespace
	config.Labels[runtime.LabelPodUID] = c.UID
	if c.DNS != nil {
		config.DnsConfig = &criv1.DNSConfig{Servers: c.DNS.Servers, Searches: c.DNS.Searches, Options: c.DNS.Options}
	}
	for _, p := range c.Ports {
		config.PortMappings = append(config.PortMappings, &criv1.PortMapping{
			Protocol: protocol(p.Protocol), ContainerPort: p.Container, HostPort: p.Host, HostIp: p.HostIP,
		})
	}
	return config
}

func namespaceOptions(s runtime.PodSecurity) *criv1.NamespaceOption {
	options := &criv1.NamespaceOption{Pid: criv1.NamespaceMode_CONTAINER}
	if s.HostNetwork {
		options.Network = criv1.NamespaceMode_NODE
	}
	if s.HostIPC {
		options.Ipc = criv1.NamespaceMode_NODE
	}
	if s.ShareProcesses {
		options.Pid = criv1.NamespaceMode_POD
	}
	if s.HostPID {
		options.Pid = criv1.NamespaceMode_NODE
	}
	return options
}

func protocol(p string) criv1.Protocol {
	switch p {
	case "UDP":
		return criv1.Protocol_UDP
	case "SCTP":
		return criv1.Protocol_SCTP
	}
	return criv1.Protocol_TCP
}

func seccomp(s runtime.Seccomp) *criv1.SecurityProfile {
	switch {
	case s.RuntimeDefault:
		return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_RuntimeDefault}
	case s.LocalhostPath != "":
		return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Localhost, LocalhostRef: s.LocalhostPath}
	}
	return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Unconfined}
}

func number(n *int64) *criv1.Int64Value {
	if n == nil {
		return nil
	}
	return &criv1.Int64Value{Value: *n}
}
