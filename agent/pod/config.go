package pod

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/volume"
)

// sandboxConfig is what the runtime needs to know of the pod.
func (w *worker) sandboxConfig(pod *corev1.Pod, attempt uint32) *runtime.SandboxConfig {
	node := w.m.cfg.Node()
	config := &runtime.SandboxConfig{
		UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, Attempt: attempt,
		Hostname: hostname(pod), LogDir: LogDir(w.m.cfg.Dir, pod),
		DNS: dns(pod, node), Labels: pod.Labels, Annotations: pod.Annotations,
		Security: podSecurity(pod),
	}
	if pod.Spec.RuntimeClassName != nil {
		config.RuntimeHandler = *pod.Spec.RuntimeClassName
	}
	if pod.Spec.HostNetwork {
		return config
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				config.Ports = append(config.Ports, runtime.Port{Protocol: string(p.Protocol), Container: p.ContainerPort, Host: p.HostPort, HostIP: p.HostIP})
			}
		}
	}
	return config
}

// hostname is empty on the host's network: such a pod has the host's name as
// well, and a runtime that is told one would rename the host (runc refuses to).
func hostname(pod *corev1.Pod) string {
	if pod.Spec.HostNetwork {
		return ""
	}
	name := pod.Spec.Hostname
	if name == "" {
		name = pod.Name
	}
	const most = 63 // of a Linux host name
	return strings.TrimRight(name[:min(len(name), most)], "-.")
}

func podSecurity(pod *corev1.Pod) runtime.PodSecurity {
	security := runtime.PodSecurity{
		HostNetwork: pod.Spec.HostNetwork, HostPID: pod.Spec.HostPID, HostIPC: pod.Spec.HostIPC,
		ShareProcesses: isTrue(pod.Spec.ShareProcessNamespace),
		Seccomp:        runtime.Seccomp{RuntimeDefault: true}, // it only pauses
	}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		if c.SecurityContext != nil && isTrue(c.SecurityContext.Privileged) {
			security.Privileged = true
		}
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		security.RunAsUser, security.RunAsGroup = sc.RunAsUser, sc.RunAsGroup
		security.Groups = groups(sc)
		if len(sc.Sysctls) > 0 {
			security.Sysctls = map[string]string{}
			for _, s := range sc.Sysctls {
				security.Sysctls[s.Name] = s.Value
			}
		}
	}
	return security
}

func groups(sc *corev1.PodSecurityContext) []int64 {
	all := slices.Clone(sc.SupplementalGroups)
	if sc.FSGroup != nil {
		all = append(all, *sc.FSGroup)
	}
	return all
}

// containerConfig is what the runtime needs to know of a container. Its errors
// are the pod's author's to mend.
func (w *worker) containerConfig(pod *corev1.Pod, begin start, image runtime.Image, box *runtime.Sandbox) (*runtime.ContainerConfig, error) {
	spec, node := begin.spec, w.m.cfg.Node()
	ips := box.IPs
	if pod.Spec.HostNetwork {
		ips = []string{node.IP}
	}
	env, err := environment(pod, spec, ips, node, w.m.cfg.Contents)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for _, e := range env {
		values[e.Name] = e.Value
	}
	lookup := func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	security, err := containerSecurity(pod, spec, image)
	if err != nil {
		return nil, err
	}
	config := &runtime.ContainerConfig{
		Name: spec.Name, Attempt: begin.attempt, Image: spec.Image, ImageID: image.ID,
		Command: expandAll(spec.Command, lookup), Args: expandAll(spec.Args, lookup), WorkingDir: spec.WorkingDir,
		Env:   env,
		Stdin: spec.Stdin, StdinOnce: spec.StdinOnce, TTY: spec.TTY,
		LogPath:     logName(spec.Name, begin.attempt),
		Annotations: map[string]string{annotationHash: hashOf(spec)},
		Resources:   resources(pod, spec, node),
		Security:    security,
	}
	if err := os.MkdirAll(filepath.Join(LogDir(w.m.cfg.Dir, pod), spec.Name), 0o755); err != nil {
		return nil, err
	}
	if w.m.cfg.Volumes == nil {
		return config, nil
	}
	if config.Mounts, err = w.mounts(pod, spec, begin.attempt, ips, lookup); err != nil {
		return nil, err
	}
	return config, nil
}

// mounts are the volumes a container wants, and the files every container gets.
func (w *worker) mounts(pod *corev1.Pod, spec *corev1.Container, attempt uint32, ips []string, lookup func(string) (string, bool)) ([]runtime.Mount, error) {
	var mounts []runtime.Mount
	taken := map[string]bool{}
	for _, m := range spec.VolumeMounts {
		from, ok := w.volumes[m.Name]
		if !ok {
			return nil, fmt.Errorf("volume %q is mounted but not declared", m.Name)
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = expand(m.SubPathExpr, lookup)
		}
		if sub != "" {
			below, err := subPath(from, sub)
			if err != nil {
				return nil, fmt.Errorf("subPath %q of volume %q: %w", sub, m.Name, err)
			}
			from = below
		}
		readOnly := m.ReadOnly || slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == m.Name && (volume.Shows(&v) || v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly)
		})
		mounts = append(mounts, runtime.Mount{HostPath: from, ContainerPath: m.MountPath, ReadOnly: readOnly, Propagation: propagation(m.MountPropagation)})
		taken[m.MountPath] = true
	}
	if !taken["/etc/hosts"] && !pod.Spec.HostNetwork {
		path := filepath.Join(w.filesDir(), "hosts")
		if err := writeAtomically(path, hosts(pod, ips), false); err != nil {
			return nil, err
		}
		if err := os.Chmod(path, 0o644); err != nil {
			return nil, err
		}
		mounts = append(mounts, runtime.Mount{HostPath: path, ContainerPath: "/etc/hosts"})
	}
	if path := spec.TerminationMessagePath; path != "" && !taken[path] {
		file := w.messageFile(spec.Name, attempt)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, err
		}
		// Whoever the container runs as may write it.
		if err := os.WriteFile(file, nil, 0o666); err != nil {
			return nil, err
		}
		if err := os.Chmod(file, 0o666); err != nil {
			return nil, err
		}
		mounts = append(mounts, runtime.Mount{HostPath: file, ContainerPath: path})
	}
	return mounts, nil
}

// subPath is a path below a volume that no link leads out of. It is made if it
// is not there.
func subPath(volume, sub string) (string, error) {
	if filepath.IsAbs(sub) || slices.Contains(strings.Split(sub, "/"), "..") {
		return "", fmt.Errorf("must be below the volume")
	}
	root, err := os.OpenRoot(volume)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if err := makeBelow(root, sub); err != nil {
		return "", err
	}
	// What the runtime mounts is resolved again, so it is given resolved.
	path, err := filepath.EvalSymlinks(filepath.Join(volume, sub))
	if err != nil {
		return "", err
	}
	base, err := filepath.EvalSymlinks(volume)
	if err != nil {
		return "", err
	}
	if path != base && !strings.HasPrefix(path, base+"/") {
		return "", fmt.Errorf("leads out of the volume")
	}
	return path, nil
}

// makeBelow makes what is not there of a path. It is for those whom the volume is
// for, as kubelet has it.
func makeBelow(root *os.Root, path string) error {
	if _, err := root.Stat(path); !os.IsNotExist(err) {
		return err
	}
	volume, err := root.Stat(".")
	if err != nil {
		return err
	}
	mode := volume.Mode() & (os.ModePerm | os.ModeSetgid)
	at := ""
	for name := range strings.SplitSeq(filepath.Clean(path), "/") {
		at = filepath.Join(at, name)
		switch err := root.Mkdir(at, 0o750); {
		case os.IsExist(err):
		case err != nil:
			return err
		default:
			if err := root.Chmod(at, mode); err != nil { // past the umask
				return err
			}
		}
	}
	return nil
}

func propagation(p *corev1.MountPropagationMode) runtime.Propagation {
	if p != nil {
		switch *p {
		case corev1.MountPropagationHostToContainer:
			return runtime.HostToContainer
		case corev1.MountPropagationBidirectional:
			return runtime.Bidirectional
		}
	}
	return runtime.Private
}

func hosts(pod *corev1.Pod, ips []string) []byte {
	var text strings.Builder
	text.WriteString("# Managed by muster.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	name := pod.Spec.Hostname
	if name == "" {
		name = pod.Name
	}
	for _, ip := range ips {
		if pod.Spec.Hostname != "" && pod.Spec.Subdomain != "" {
			fmt.Fprintf(&text, "%s\t%s.%s.%s.svc\t%s\n", ip, name, pod.Spec.Subdomain, pod.Namespace, name)
			continue
		}
		fmt.Fprintf(&text, "%s\t%s\n", ip, name)
	}
	for _, alias := range pod.Spec.HostAliases {
		fmt.Fprintf(&text, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
	}
	return []byte(text.String())
}

// dns is what the pod's resolv.conf says; nil for the host's.
func dns(pod *corev1.Pod, node Node) *runtime.DNS {
	policy := pod.Spec.DNSPolicy
	if pod.Spec.HostNetwork && policy == corev1.DNSClusterFirst || policy == corev1.DNSClusterFirst && len(node.ClusterDNS) == 0 {
		policy = corev1.DNSDefault
	}
	more := pod.Spec.DNSConfig
	var out runtime.DNS
	switch policy {
	case corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet:
		out.Servers = slices.Clone(node.ClusterDNS)
		if d := node.ClusterDomain; d != "" {
			out.Searches = []string{pod.Namespace + ".svc." + d, "svc." + d, d}
		}
		out.Options = []string{"ndots:5"}
	case corev1.DNSNone:
	default:
		if more == nil {
			return nil
		}
		out = hostDNS()
	}
	if more == nil {
		return &out
	}
	out.Servers = append(out.Servers, more.Nameservers...)
	out.Searches = append(out.Searches, more.Searches...)
	for _, o := range more.Options {
		option := o.Name
		if o.Value != nil {
			option += ":" + *o.Value
		}
		out.Options = append(out.Options, option)
	}
	return &out
}

func hostDNS() (out runtime.DNS) {
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return out
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			out.Servers = append(out.Servers, words[1])
		case "search":
			out.Searches = words[1:]
		case "options":
			out.Options = words[1:]
		}
	}
	return out
}
