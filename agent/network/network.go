// Package network gives pods their addresses and the way to other nodes' pods:
// a CNI configuration of bridge, host-local and portmap on the node's pod
// range, a route to each other node's range through that node (all nodes are on
// one link), and masquerading of what leaves the pods' ranges. It works in the
// network namespace of the process.
package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config says where things are.
type Config struct {
	Dir     string // what was learned, addresses in use
	CNIConf string // directory containerd reads the network's configuration from
	Bridge  string // default "muster0"
	Logger  *slog.Logger
}

// Route is the way to another node's pods.
type Route struct {
	Node    string       `json:"node"`
	Address netip.Addr   `json:"address"`
	PodCIDR netip.Prefix `json:"podCIDR"`
}

const (
	retryEvery = 5 * time.Second
	// assertEvery is how often everything is set again, in case somebody else
	// changed it.
	assertEvery = time.Minute
)

// Network keeps the node's part of the pod network as it was told to be.
type Network struct {
	cfg  Config
	log  *slog.Logger
	wake chan struct{}

	mu      sync.Mutex
	desired desired
}

// desired is kept on disk: a node that restarts while no control node answers
// has its network again.
type desired struct {
	PodCIDR netip.Prefix `json:"podCIDR"`
	Routes  []Route      `json:"routes"`
}

func New(cfg Config) (*Network, error) {
	if cfg.Bridge == "" {
		cfg.Bridge = "muster0"
	}
	n := &Network{cfg: cfg, log: cfg.Logger, wake: make(chan struct{}, 1)}
	text, err := os.ReadFile(n.file())
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(text, &n.desired); err != nil {
			n.log.Warn("ignoring a damaged file of the network's state", "file", n.file(), "err", err)
			n.desired = desired{}
		}
	}
	n.nudge()
	return n, nil
}

func (n *Network) file() string { return filepath.Join(n.cfg.Dir, "network.json") }

// SetPodCIDR says which addresses this node's pods have.
func (n *Network) SetPodCIDR(cidr string) error {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		return fmt.Errorf("pod range: %w", err)
	}
	if !prefix.Addr().Is4() {
		return fmt.Errorf("pod range %s: only IPv4 is supported", cidr)
	}
	n.change(func(d *desired) { d.PodCIDR = prefix.Masked() })
	return nil
}

// SetRoutes says where the other nodes' pods are: all of them.
func (n *Network) SetRoutes(routes []Route) {
	routes = slices.Clone(routes)
	slices.SortFunc(routes, func(a, b Route) int { return a.PodCIDR.Addr().Compare(b.PodCIDR.Addr()) })
	n.change(func(d *desired) { d.Routes = routes })
}

func (n *Network) change(how func(*desired)) {
	n.mu.Lock()
	before := n.desired
	how(&n.desired)
	changed := before.PodCIDR != n.desired.PodCIDR || !slices.Equal(before.Routes, n.desired.Routes)
	n.mu.Unlock()
	if changed {
		n.nudge()
	}
}

func (n *Network) nudge() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// Run keeps the network as it was told to be until ctx ends; it stays afterwards.
func (n *Network) Run(ctx context.Context) error {
	timer := time.NewTimer(assertEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.wake:
		case <-timer.C:
		}
		n.mu.Lock()
		want := n.desired
		n.mu.Unlock()
		next := assertEvery
		if err := n.apply(ctx, want); err != nil && ctx.Err() == nil {
			n.log.Warn("the pod network is not as it should be yet", "err", err)
			next = retryEvery
		}
		timer.Reset(next)
	}
}

// apply makes the machine what want says. Each part is tried, whatever becomes
// of the others.
func (n *Network) apply(ctx context.Context, want desired) error {
	var errs []error
	if text, err := json.Marshal(want); err == nil {
		errs = append(errs, writeIfOther(n.file(), text))
	}
	if want.PodCIDR.IsValid() {
		errs = append(errs, n.writeConflist(want.PodCIDR), writeIfOther("/proc/sys/net/ipv4/ip_forward", []byte("1\n")), n.masquerade(ctx, want))
	}
	errs = append(errs, setRoutes(want))
	return errors.Join(errs...)
}

// writeConflist tells CNI about the range. Pods on the range's bridge reach each
// other directly, and themselves through hairpin mode.
func (n *Network) writeConflist(cidr netip.Prefix) error {
	list := map[string]any{
		"cniVersion": "1.0.0", "name": "muster",
		"plugins": []any{
			map[string]any{
				"type": "bridge", "bridge": n.cfg.Bridge, "isGateway": true, "hairpinMode": true,
				"ipam": map[string]any{
					"type": "host-local", "dataDir": filepath.Join(n.cfg.Dir, "addresses"),
					"ranges": []any{[]any{map[string]any{"subnet": cidr.String()}}},
					"routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
				},
			},
			map[string]any{
				"type": "portmap", "backend": portmapBackend(), "snat": true, "capabilities": map[string]bool{"portMappings": true},
			},
		},
	}
	text, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	return writeIfOther(filepath.Join(n.cfg.CNIConf, "10-muster.conflist"), text)
}

func portmapBackend() string {
	if _, err := exec.LookPath("nft"); err == nil {
		return "nftables"
	}
	return "iptables"
}

// masquerade hides pods' addresses from all but pods: nobody else knows the way
// back. Pods see each other's own addresses.
func (n *Network) masquerade(ctx context.Context, want desired) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(ruleset(want))
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return errors.New("nft is not installed (package nftables): pods do not reach anything but pods")
		}
		return fmt.Errorf("set the masquerading rules: %w: %s", err, strings.TrimSpace(output.String()))
	}
	return nil
}

// ruleset replaces our table as a whole, in one transaction.
func ruleset(want desired) string {
	ranges := []string{want.PodCIDR.String()}
	for _, r := range want.Routes {
		if r.PodCIDR != want.PodCIDR && r.PodCIDR.Addr().Is4() {
			ranges = append(ranges, r.PodCIDR.Masked().String())
		}
	}
	return fmt.Sprintf(`table ip muster-agent
delete table ip muster-agent
table ip muster-agent {
	set pods {
		type ipv4_addr
		flags interval
		auto-merge
		elements = { %s }
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr %s ip daddr != @pods ip daddr != 224.0.0.0/4 masquerade
	}
}
`, strings.Join(ranges, ", "), want.PodCIDR)
}

// writeIfOther writes a file whole unless it holds content already.
func writeIfOther(path string, content []byte) error {
	now, err := os.ReadFile(path)
	if err == nil && bytes.Equal(now, content) {
		return nil
	}
	if strings.HasPrefix(path, "/proc/") {
		return os.WriteFile(path, content, 0)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temporary := path + ".new" // not a name CNI reads
	if err := os.WriteFile(temporary, content, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}
