// Package lab makes a cluster of five machines out of one: control nodes c1, c2
// and c3 and compute nodes n1 and n2, each with a network namespace and an
// address of its own, a private /run and a private folder on disk. What runs in
// them is the real muster binary with the real containerd; the lab only gives it
// machines, starts it, kills it and cleans up.
//
//	 this machine          the lab's switch
//	┌────────────┐        ┌─────────────────┐ .11 c1   .21 n1
//	│ muster-3fa2├── .1 ──┤ br0        .254 ├ .12 c2   .22 n2
//	└────────────┘        └─────────────────┘ .13 c3
//
// Everything has a name made from the lab's folder, so that labs of two clones
// do not meet, and so that a lab is found again and removed whole with nothing
// but its folder's name. Of this machine's network, the lab touches nothing but
// the one interface it adds.
package lab

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// Role is what a host is for.
type Role string

const (
	Control Role = "control"
	Compute Role = "compute"
)

// The hosts of every lab, and the last byte of their address.
var inventory = []struct {
	name string
	role Role
	last byte
}{
	{"c1", Control, 11}, {"c2", Control, 12}, {"c3", Control, 13},
	{"n1", Compute, 21}, {"n2", Compute, 22},
}

const (
	machineAddress = 1   // of this machine in the lab's subnet
	routerAddress  = 254 // of the lab's switch, the hosts' default route
)

// Config says which lab, and what runs in it.
type Config struct {
	Dir    string // the lab's folder, as ".cluster"
	Muster string // the muster binary
	Images string // folder of image archives that agents import
	// Subnet is a /24 for the hosts. Zero: the first of 10.77.0.0/24,
	// 10.78.0.0/24, … that nothing on this machine uses.
	Subnet netip.Prefix
}

// Lab is five hosts. Its methods may be called by any process: what there is to
// know about a lab is on disk and in the kernel.
type Lab struct {
	Name   string // as "muster-3fa2"
	Dir    string
	Subnet netip.Prefix // not valid before the network is up
	Hosts  []*Host

	muster, images string
}

// Host is one machine of the lab.
type Host struct {
	Name string
	Role Role
	Dir  string // everything its processes keep

	lab  *Lab
	last byte
}

// Open describes the lab in cfg.Dir, whether it is up or not.
func Open(cfg Config) (*Lab, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	// The same folder by another path is the same lab.
	if parent, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil {
		dir = filepath.Join(parent, filepath.Base(dir))
	}
	sum := sha256.Sum256([]byte(dir))
	l := &Lab{Name: "muster-" + hex.EncodeToString(sum[:2]), Dir: dir, Subnet: cfg.Subnet}
	for path, to := range map[string]*string{cfg.Muster: &l.muster, cfg.Images: &l.images} {
		if path != "" {
			if *to, err = filepath.Abs(path); err != nil {
				return nil, err
			}
		}
	}
	for _, h := range inventory {
		l.Hosts = append(l.Hosts, &Host{Name: h.name, Role: h.role, Dir: filepath.Join(dir, h.name), lab: l, last: h.last})
	}
	saved, err := l.load()
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	if cfg.Subnet.IsValid() && cfg.Subnet != saved.Subnet {
		return nil, fmt.Errorf("the lab in %s has subnet %v, not %v; take it down first", dir, saved.Subnet, cfg.Subnet)
	}
	l.Subnet = saved.Subnet
	return l, nil
}

// Host finds a host by name.
func (l *Lab) Host(name string) (*Host, error) {
	i := slices.IndexFunc(l.Hosts, func(h *Host) bool { return h.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("there is no host %q", name)
	}
	return l.Hosts[i], nil
}

// Of lists the hosts of one role.
func (l *Lab) Of(role Role) []*Host {
	var hosts []*Host
	for _, h := range l.Hosts {
		if h.Role == role {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

// Kubeconfig is the file with which an administrator reaches the cluster. It
// has a context for each control host, named as the host.
func (l *Lab) Kubeconfig() string { return filepath.Join(l.Dir, "kubeconfig") }

// Address is the host's in the lab's subnet.
func (h *Host) Address() netip.Addr { return address(h.lab.Subnet, h.last) }

// API is where a control host serves everything.
func (h *Host) API() string { return netip.AddrPortFrom(h.Address(), 6443).String() }

// Log is the file with what the host's muster prints.
func (h *Host) Log() string { return filepath.Join(h.Dir, "muster.log") }

func address(subnet netip.Prefix, last byte) netip.Addr {
	b := subnet.Addr().As4()
	b[3] = last
	return netip.AddrFrom4(b)
}

// settings is what a lab keeps about itself on disk. The rest follows from its
// folder's name.
type settings struct {
	Subnet netip.Prefix `json:"subnet"`
}

func (l *Lab) settingsFile() string { return filepath.Join(l.Dir, "lab.json") }

func (l *Lab) load() (settings, error) {
	var s settings
	raw, err := os.ReadFile(l.settingsFile())
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, fmt.Errorf("%s: %w (take the lab down and up again)", l.settingsFile(), err)
	}
	return s, nil
}

func (l *Lab) save() error {
	raw, err := json.Marshal(settings{Subnet: l.Subnet})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.Dir, 0o755); err != nil {
		return err
	}
	partial := l.settingsFile() + ".partial"
	if err := os.WriteFile(partial, raw, 0o644); err != nil {
		return err
	}
	return os.Rename(partial, l.settingsFile())
}
