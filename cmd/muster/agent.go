package main

import (
	"fmt"
	"net"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/agent/runtime/bundle"
)

func newAgentCommand() *cobra.Command {
	var (
		logs       logFlags
		cfg        agent.MemberConfig
		labels     map[string]string
		taints     []string
		archives   string
		gossipPort string
		cniBin     string
	)
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run a compute node",
		Long: `Run a compute node: it joins a cluster and runs the pods that are bound to it.

  muster agent --join 10.0.0.1:6443 --token "$TOKEN" --name n1 --dir /var/lib/muster
  muster agent --name n1 --dir /var/lib/muster       (once it has joined)

It runs a containerd of its own, which this binary carries, unless
--runtime-endpoint names the socket of an installed one. Pods go on running
while the agent or its containerd restart.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logs.logger()
			if err != nil {
				return err
			}
			cfg.Logger, cfg.Version, cfg.Labels = log, version, labels
			cfg.GossipAddress = net.JoinHostPort(cfg.NodeIP, gossipPort)
			if cfg.Taints, err = parseTaints(taints); err != nil {
				return err
			}
			if archives != "" {
				if cfg.ImageArchives, err = filepath.Glob(filepath.Join(archives, "*.tar")); err != nil {
					return fmt.Errorf("image-archives: %w", err)
				}
				sort.Strings(cfg.ImageArchives)
			}
			if err := findRuntime(&cfg.Config, cniBin); err != nil {
				return err
			}
			member, err := agent.NewMember(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			return member.Run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&cfg.Dir, "dir", "/var/lib/muster", "directory that holds all that this node keeps")
	flags.StringVar(&cfg.Name, "name", "", "name of this node, for good; no other node may have it (default: the one it joined with, at first the host name)")
	flags.StringSliceVar(&cfg.Join, "join", nil, "address, host:port, of a control node to join through; may be given several times")
	flags.StringVar(&cfg.Token, "token", "", "agent token of the cluster to join")
	flags.StringVar(&cfg.LocalVolumes, "local-volumes", "", "directory for the volumes of claims that are directories of this node (default: local-volumes in --dir)")
	flags.StringVar(&cfg.NodeIP, "node-ip", "", "address at which the other nodes reach this one (default: this machine's address that faces the control nodes)")
	flags.StringVar(&gossipPort, "gossip-port", "7946", "port of gossip, UDP and TCP")
	flags.StringVar(&cfg.Runtime, "runtime", agent.Containerd, "what runs the pods: containerd, or hollow, which only pretends to")
	flags.StringVar(&cfg.RuntimeEndpoint, "runtime-endpoint", "", "socket of an installed containerd to use instead of an own one")
	flags.StringVar(&cniBin, "cni-bin", "", "directory of installed CNI plugins to use instead of the built-in ones (needed when this build carries none)")
	flags.StringVar(&cfg.SandboxImage, "sandbox-image", "", "image of the container that holds a pod's namespaces (default muster.local/pause:1)")
	flags.StringVar(&archives, "image-archives", "", "directory whose *.tar image archives (OCI or Docker) are imported at start")
	flags.StringToStringVar(&labels, "label", nil, "label of the node, name=value; may be given several times")
	flags.StringSliceVar(&taints, "taint", nil, "taint of the node when it is first registered, key[=value]:effect; may be given several times")
	flags.DurationVar(&cfg.StopAfter, "stop-after", agent.StopAfterDefault, "how long pods that must not run twice, as those of stateful sets, go on when this node may be cut off from the cluster; negative: for ever, and nothing replaces them until a person decides")
	logs.add(flags)
	return cmd
}

// findRuntime unpacks the container runtime that this build carries, as far as
// it is needed.
func findRuntime(cfg *agent.Config, cniBin string) error {
	cfg.CNIBin = cniBin
	if cfg.Runtime == agent.Hollow || cfg.RuntimeEndpoint != "" && cniBin != "" {
		return nil
	}
	if !bundle.Available() {
		return fmt.Errorf("this build carries no container runtime (make build does): give --runtime-endpoint and --cni-bin of an installed containerd, or --runtime hollow")
	}
	paths, err := bundle.Unpack(filepath.Join(cfg.Dir, "runtime"))
	if err != nil {
		return err
	}
	cfg.RuntimeBin = paths.Bin
	if cfg.CNIBin == "" {
		cfg.CNIBin = paths.CNI
	}
	return nil
}

func parseTaints(texts []string) ([]corev1.Taint, error) {
	var taints []corev1.Taint
	for _, text := range texts {
		keyValue, effect, ok := strings.Cut(text, ":")
		key, value, _ := strings.Cut(keyValue, "=")
		switch corev1.TaintEffect(effect) {
		case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
		default:
			ok = false
		}
		if !ok || key == "" {
			return nil, fmt.Errorf("taint: %q: want key[=value]:effect with effect NoSchedule, PreferNoSchedule or NoExecute", text)
		}
		taints = append(taints, corev1.Taint{Key: key, Value: value, Effect: corev1.TaintEffect(effect)})
	}
	return taints, nil
}
