// Package agent makes a machine one of a cluster's nodes: it keeps a session
// with a control node, runs the pods that are bound here and says how they are.
// Package session talks, package pod decides, package runtime does.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/agent/fence"
	"github.com/musterhq/muster/agent/network"
	"github.com/musterhq/muster/agent/node"
	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/agent/probe"
	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/runtime/bundle"
	"github.com/musterhq/muster/agent/runtime/cri"
	"github.com/musterhq/muster/agent/runtime/hollow"
	"github.com/musterhq/muster/agent/session"
	"github.com/musterhq/muster/agent/volume"
	"github.com/musterhq/muster/proto/agent/fencing"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// Runtimes an agent can run pods with.
const (
	Containerd = "containerd"
	Hollow     = "hollow"
)

// StopAfterDefault is how long pods that must not run twice go on when this node
// may be cut off.
const StopAfterDefault = fencing.StopAfterDefault

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
	// RuntimeEndpoint is the socket of an installed containerd. Its CNI plugins
	// must read Dir/cni/net.d. Empty: the agent runs a containerd of its own.
	RuntimeEndpoint string
	// RuntimeBin holds containerd, containerd-shim-runc-v2 and runc; CNIBin the
	// CNI plugins. Empty: those the binary carries are unpacked to Dir.
	RuntimeBin, CNIBin string
	SandboxImage       string // default "muster.local/pause:1"
	// ImageArchives are tar files of images to import at start, beside
	// Dir/images/*.tar.
	ImageArchives []string
	// EndRuntime ends an own containerd with the agent. Otherwise it goes on.
	EndRuntime bool
	// HollowDelays are how long a pretended sandbox, container start and image
	// pull take.
	HollowDelays hollow.Config

	// LocalVolumes is the directory below which volumes of claims are made, if they are
	// this node's directories. Default: local-volumes in Dir.
	LocalVolumes string

	NodeIP   string // default: the address that faces the control nodes
	Hostname string // default: the name
	Labels   map[string]string
	Taints   []corev1.Taint
	Version  string // of muster, as "v0.1.0"
	// StopAfter is how long pods that must not run twice go on when this node may
	// be cut off from the cluster: 0 for StopAfterDefault, negative for ever, in
	// which case their replacement waits for a person. See package fencing.
	StopAfter time.Duration
	// Capacity is what a hollow node pretends to have; on a real one it overrides
	// what is found.
	Capacity corev1.ResourceList
	// ClusterDNS and ClusterDomain go into pods' resolv.conf.
	ClusterDNS    []string
	ClusterDomain string

	Logger *slog.Logger
}

// Agent is one node of a cluster.
type Agent struct {
	cfg      Config
	log      *slog.Logger
	runtime  runtime.Runtime
	pods     *pod.Manager
	session  *session.Session
	contents *contents
	reclaims *reclaims
	fence    *fence.Fence
	node     *node.Node
	network  *network.Network // nil on a hollow node
	hollow   *hollow.Runtime  // nil on a real one
}

// New checks cfg and loads what the last run left in Dir.
func New(cfg Config) (*Agent, error) {
	if cfg.Name == "" || cfg.Dir == "" || cfg.Dial == nil {
		return nil, errors.New("agent: Name, Dir and Dial are required")
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Hostname == "" {
		cfg.Hostname = cfg.Name
	}
	if cfg.SandboxImage == "" {
		cfg.SandboxImage = "muster.local/pause:1"
	}
	if cfg.NodeIP == "" {
		cfg.NodeIP = facing(cfg.Servers)
	}
	if cfg.LocalVolumes == "" {
		cfg.LocalVolumes = filepath.Join(cfg.Dir, "local-volumes")
	} else if cfg.LocalVolumes, err = filepath.Abs(cfg.LocalVolumes); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("prepare the agent's directory: %w", err)
	}
	a := &Agent{cfg: cfg, log: cfg.Logger}
	if err := a.makeRuntime(); err != nil {
		return nil, err
	}
	kept := filepath.Join(cfg.Dir, "fence.json")
	if a.hollow != nil {
		kept = "" // what it pretends to run ends with it
	}
	if a.fence, err = fence.New(fence.Config{Name: cfg.Name, File: kept, StopAfter: cfg.StopAfter, Logger: a.log}); err != nil {
		return nil, err
	}
	a.node = node.New(node.Config{
		Name: cfg.Name, Hostname: cfg.Hostname, IP: cfg.NodeIP, Dir: cfg.Dir, Labels: cfg.Labels, Taints: cfg.Taints,
		Version: cfg.Version, Capacity: cfg.Capacity, StopsWithin: a.fence.Promise(), Health: a.health, Images: a.images,
	})
	a.contents = newContents(filepath.Join(cfg.Dir, "services"), a.log)
	a.session, err = session.New(session.Config{
		Servers: cfg.Servers, File: filepath.Join(cfg.Dir, "servers.json"), Dial: cfg.Dial, Handler: a, Certainty: a.fence, Version: cfg.Version, Bare: a.hollow != nil, Volumes: cfg.LocalVolumes, Logger: a.log,
	})
	if err != nil {
		return nil, err
	}
	volumes := &volume.Manager{Dir: filepath.Join(cfg.Dir, "volumes"), Volumes: cfg.LocalVolumes}
	a.reclaims = newReclaims(a.log, volumes.Reclaim, a.session.Reclaimed)
	podConfig := pod.Config{
		Dir: cfg.Dir, Runtime: a.runtime, Reporter: a.session, Node: a.podNode, Prober: probe.Network{}, Logger: a.log,
		Volumes: volumes, Contents: a.contents,
	}
	if a.hollow != nil {
		podConfig.Prober, podConfig.Volumes, podConfig.Contents, podConfig.Unsynced = probe.Pretended{}, nil, nil, true
	}
	if a.pods, err = pod.New(podConfig); err != nil {
		return nil, err
	}
	a.pods.SetFence(pod.Unclear)
	a.fence.OnChange(func(state fence.State) {
		a.pods.SetFence(map[fence.State]pod.Fence{fence.Undecided: pod.Unclear, fence.Going: pod.Open, fence.Stopped: pod.Closed}[state])
	})
	a.contents.session, a.contents.changed = a.session, a.pods.Refill
	return a, nil
}

func (a *Agent) makeRuntime() (err error) {
	cfg := &a.cfg
	switch cfg.Runtime {
	case Hollow:
		a.hollow = hollow.New(cfg.HollowDelays)
		a.runtime = a.hollow
		return nil
	case Containerd, "":
	default:
		return fmt.Errorf("runtime %q is none of %s and %s", cfg.Runtime, Containerd, Hollow)
	}
	if cfg.RuntimeEndpoint == "" && cfg.RuntimeBin == "" && bundle.Available() {
		paths, err := bundle.Unpack(filepath.Join(cfg.Dir, "runtime"))
		if err != nil {
			return fmt.Errorf("unpack the container runtime: %w", err)
		}
		cfg.RuntimeBin, cfg.CNIBin = paths.Bin, paths.CNI
	}
	conf := filepath.Join(cfg.Dir, "cni", "net.d")
	a.network, err = network.New(network.Config{Dir: filepath.Join(cfg.Dir, "cni"), CNIConf: conf, Logger: a.log})
	if err != nil {
		return err
	}
	a.runtime, err = cri.New(cri.Config{
		Dir: filepath.Join(cfg.Dir, "containerd"), Endpoint: cfg.RuntimeEndpoint, Bin: cfg.RuntimeBin, CNIBin: cfg.CNIBin,
		CNIConf: conf, CertsDir: filepath.Join(cfg.Dir, "certs.d"), SandboxImage: cfg.SandboxImage,
		CgroupParent: "/muster/" + cfg.Name, EndWithRun: cfg.EndRuntime, Logger: a.log,
	})
	return err
}

// facing is the address of this machine that the first of the servers sees.
func facing(servers []string) string {
	for _, server := range servers {
		conn, err := net.Dial("udp", server) // sends nothing
		if err != nil {
			continue
		}
		address := conn.LocalAddr().(*net.UDPAddr).IP.String()
		_ = conn.Close()
		return address
	}
	return "127.0.0.1"
}

// Run makes the machine a node until ctx ends. Pods go on running afterwards.
func (a *Agent) Run(ctx context.Context) error {
	// The runtime ends last: workers may be in the middle of something.
	runtimeCtx, endRuntime := context.WithCancel(context.WithoutCancel(ctx))
	defer endRuntime()
	below := make(chan error, 1)
	group, ctx := errgroup.WithContext(ctx)
	go func() { below <- a.runtime.Run(runtimeCtx) }()
	group.Go(func() error {
		select {
		case err := <-below:
			below <- err
			return fmt.Errorf("container runtime: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	if a.network != nil {
		group.Go(func() error { return a.network.Run(ctx) })
	}
	group.Go(func() error { return a.session.Run(ctx) })
	group.Go(func() error { return a.reclaims.Run(ctx) })
	group.Go(func() error { return a.fence.Run(ctx) })
	group.Go(func() error { return a.node.Run(ctx, a.session.NodeStatus) })
	group.Go(func() error {
		if err := a.importImages(ctx); err != nil {
			return err
		}
		return a.pods.Run(ctx)
	})
	err := group.Wait()
	endRuntime()
	<-below
	return err
}

// Server is the control node the agent has a session with.
func (a *Agent) Server() (address string, connected bool) { return a.session.Server() }

// importImages waits for the runtime and gives it the images that came as files.
func (a *Agent) importImages(ctx context.Context) error {
	for {
		if _, err := a.runtime.Info(ctx); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	if a.hollow != nil {
		return nil
	}
	found, err := filepath.Glob(filepath.Join(a.cfg.Dir, "images", "*.tar"))
	if err != nil {
		return err
	}
	for _, path := range slices.Concat(found, a.cfg.ImageArchives) {
		names, err := a.runtime.ImportImages(ctx, path)
		switch {
		case err == nil:
			a.log.Info("images imported", "file", path, "images", names)
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			// Pods that need them say so; the others run.
			a.log.Error("could not import images", "file", path, "err", err)
		}
	}
	return nil
}

func (a *Agent) health(ctx context.Context) node.Health {
	info, err := a.runtime.Info(ctx)
	if err != nil {
		return node.Health{Message: err.Error()}
	}
	return node.Health{
		Runtime: info.Name + "://" + strings.TrimPrefix(info.Version, "v"), Ready: info.Ready, NetworkReady: info.NetworkReady, Message: info.Message,
	}
}

// images are those that help the scheduler to choose this node. Pretended ones
// help nobody, and thousands of nodes would write them down.
func (a *Agent) images(ctx context.Context) ([]corev1.ContainerImage, error) {
	if a.hollow != nil {
		return nil, nil
	}
	found, err := a.runtime.Images(ctx)
	images := make([]corev1.ContainerImage, len(found))
	for i, image := range found {
		images[i] = corev1.ContainerImage{Names: slices.Concat(image.Digests, image.Names), SizeBytes: int64(image.Size)}
	}
	return images, err
}

// podNode is what pods are told about this node.
func (a *Agent) podNode() pod.Node {
	name := Containerd
	if a.hollow != nil {
		name = Hollow
	}
	return pod.Node{
		Name: a.cfg.Name, Hostname: a.cfg.Hostname, IP: a.cfg.NodeIP, Allocatable: a.node.Allocatable(),
		ClusterDNS: a.cfg.ClusterDNS, ClusterDomain: a.cfg.ClusterDomain, RuntimeName: name,
	}
}

// What follows is session.Handler.

// Node is this node as it should be registered.
func (a *Agent) Node() *corev1.Node { return a.node.Object() }

// Welcome takes over what the cluster decided for this node.
func (a *Agent) Welcome(n *corev1.Node) {
	a.contents.begin()
	if n.Spec.PodCIDR == "" {
		a.log.Warn("the cluster has given this node no pod range")
		return
	}
	var err error
	if a.hollow != nil {
		err = a.hollow.SetPodCIDR(n.Spec.PodCIDR)
	} else {
		err = a.network.SetPodCIDR(n.Spec.PodCIDR)
	}
	if err != nil {
		a.log.Error("could not take over the node's pod range", "err", err)
	}
	// With a network the node may be ready.
	a.node.Again()
}

// Put says how a pod should be.
func (a *Agent) Put(p *corev1.Pod) { a.pods.Put(p) }

// Remove says that a pod does not exist.
func (a *Agent) Remove(uid types.UID) { a.pods.Remove(uid) }

// Retain says that these are all the pods there should be.
func (a *Agent) Retain(uids map[types.UID]bool) {
	a.pods.Retain(uids)
	a.contents.sync()
}

// Content is a config map or secret that a pod refers to.
func (a *Agent) Content(content *agentv1.Content) { a.contents.take(content) }

// Reclaim says that a volume's directory is to be deleted.
func (a *Agent) Reclaim(m *agentv1.ReclaimVolume) { a.reclaims.take(m) }

// Network says where the other nodes' pods are.
func (a *Agent) Network(list []*agentv1.NodeRoute) {
	others := make([]string, 0, len(list))
	for _, r := range list {
		if r.Node != a.cfg.Name {
			others = append(others, r.Node)
		}
	}
	a.fence.Nodes(others)
	if a.network == nil {
		return
	}
	var routes []network.Route
	for _, r := range list {
		address, addressErr := netip.ParseAddr(r.Address)
		cidr, cidrErr := netip.ParsePrefix(r.PodCidr)
		if err := errors.Join(addressErr, cidrErr); err != nil {
			a.log.Warn("ignoring a route that can't be read", "node", r.Node, "err", err)
			continue
		}
		if r.Node != a.cfg.Name {
			routes = append(routes, network.Route{Node: r.Node, Address: address, PodCIDR: cidr})
		}
	}
	a.network.SetRoutes(routes)
}
