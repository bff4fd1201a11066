package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// switchName is the namespace with the bridge that all hosts hang on. It has a
// namespace of its own so that this machine's packet filters have no say in
// what hosts tell each other.
const switchName = "switch"

// networkLock is held while a lab's network is made or removed: two labs must
// not choose the same subnet.
const networkLock = "muster-lab-network"

// podRange is where the cluster's pods get their addresses.
var podRange = netip.MustParsePrefix("10.42.0.0/16")

// addNetwork makes the switch, the hosts' namespaces and the wires between
// them, as far as they are not there.
func (l *Lab) addNetwork(ctx context.Context) error {
	unlock, err := exclusive(ctx, networkLock)
	if err != nil {
		return err
	}
	defer unlock()
	if !l.Subnet.IsValid() {
		if l.Subnet, err = freeSubnet(); err != nil {
			return err
		}
	} else if err := l.checkSubnet(); err != nil {
		return err
	}
	if err := l.save(); err != nil {
		return err
	}
	if err := l.addSwitch(); err != nil {
		return fmt.Errorf("switch: %w", err)
	}
	for _, h := range l.Hosts {
		if err := errors.Join(l.addNetns(h.Name), h.addMntns()); err != nil {
			return err
		}
		if err := l.wire(h); err != nil {
			return fmt.Errorf("wire to %s: %w", h.Name, err)
		}
	}
	return nil
}

// addSwitch makes the bridge, its address, and this machine's wire to it.
func (l *Lab) addSwitch() error {
	if err := l.addNetns(switchName); err != nil {
		return err
	}
	space, at, err := l.handle(switchName)
	if err != nil {
		return err
	}
	defer space.Close()
	defer at.Close()
	bridge, err := at.LinkByName("br0")
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		if err := at.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}); err != nil {
			return err
		}
		bridge, err = at.LinkByName("br0")
	}
	if err != nil {
		return err
	}
	if err := configure(at, bridge, netip.PrefixFrom(address(l.Subnet, routerAddress), 24)); err != nil {
		return err
	}
	err = l.inNetns(switchName, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv4/icmp_ratelimit", []byte("0"), 0o644); err != nil {
			return err
		}
		if err := refuseOthers(l.Subnet); err != nil {
			return err
		}
		err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0o644)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the bridge module does not ask the packet filter anyway
		}
		return err
	})
	if err != nil {
		return err
	}

	machine, err := netns.Get()
	if err != nil {
		return err
	}
	defer machine.Close()
	here, err := netlink.NewHandleAt(machine)
	if err != nil {
		return err
	}
	defer here.Close()
	if err := plug(at, bridge, "machine", here, l.Name, machine); err != nil {
		return err
	}
	end, err := here.LinkByName(l.Name)
	if err != nil {
		return err
	}
	return configure(here, end, netip.PrefixFrom(address(l.Subnet, machineAddress), 24))
}

// refuseOthers makes the switch, which is the hosts' default route, refuse every
// packet that leads elsewhere. A route that refuses would do so only now and
// then, because the kernel limits those answers; and one that says merely that a
// network is unreachable leaves a resolver waiting for its timeout.
func refuseOthers(subnet netip.Prefix) error {
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(fmt.Sprintf(`
add table ip lab
delete table ip lab
table ip lab {
	chain refuse {
		type filter hook prerouting priority 0
		ip daddr %v accept
		meta l4proto tcp reject with tcp reset
		reject with icmp type admin-prohibited
	}
}`, subnet))
	if out, err := nft.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, out)
	}
	return nil
}

// wire gives the host its eth0.
func (l *Lab) wire(h *Host) error {
	switchSpace, at, err := l.handle(switchName)
	if err != nil {
		return err
	}
	defer switchSpace.Close()
	defer at.Close()
	bridge, err := at.LinkByName("br0")
	if err != nil {
		return err
	}
	space, host, err := l.handle(h.Name)
	if err != nil {
		return err
	}
	defer space.Close()
	defer host.Close()
	if err := plug(at, bridge, h.Name, host, "eth0", space); err != nil {
		return err
	}
	loopback, err := host.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := host.LinkSetUp(loopback); err != nil {
		return err
	}
	eth0, err := host.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := configure(host, eth0, netip.PrefixFrom(h.Address(), 24)); err != nil {
		return err
	}
	return host.RouteReplace(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: address(l.Subnet, routerAddress).AsSlice()})
}

// plug makes a pair of interfaces, port on the bridge and end in far, unless
// the end is there.
func plug(at *netlink.Handle, bridge netlink.Link, port string, far *netlink.Handle, end string, farSpace netns.NsHandle) error {
	if _, err := far.LinkByName(end); err == nil {
		return nil
	}
	pair := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: port, MasterIndex: bridge.Attrs().Index},
		PeerName:  end, PeerNamespace: netlink.NsFd(int(farSpace)),
	}
	if err := at.LinkAdd(pair); err != nil {
		return fmt.Errorf("add %s: %w", end, err)
	}
	made, err := at.LinkByName(port)
	if err != nil {
		return err
	}
	return at.LinkSetUp(made)
}

func configure(at *netlink.Handle, link netlink.Link, prefix netip.Prefix) error {
	ip := &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), 32)}
	if err := at.AddrReplace(link, &netlink.Addr{IPNet: ip}); err != nil {
		return fmt.Errorf("address %v of %s: %w", prefix, link.Attrs().Name, err)
	}
	return at.LinkSetUp(link)
}

// handle speaks netlink in one of the lab's network namespaces.
func (l *Lab) handle(name string) (netns.NsHandle, *netlink.Handle, error) {
	space, err := netns.GetFromPath(l.netnsFile(name))
	if err != nil {
		return netns.None(), nil, err
	}
	at, err := netlink.NewHandleAt(space)
	if err != nil {
		space.Close()
		return netns.None(), nil, err
	}
	return space, at, nil
}

// removeNetwork takes the wire and the namespaces away.
func (l *Lab) removeNetwork(ctx context.Context) error {
	unlock, err := exclusive(ctx, networkLock)
	if err != nil {
		return err
	}
	defer unlock()
	var errs []error
	if link, err := netlink.LinkByName(l.Name); err == nil {
		errs = append(errs, netlink.LinkDel(link))
	}
	for _, name := range l.netnsNames() {
		errs = append(errs, unpin(l.netnsFile(name)))
	}
	_ = os.Remove(netnsDir) // if it is empty
	removeMountPoints()
	return errors.Join(errs...)
}

func (l *Lab) netnsNames() []string {
	names := []string{switchName}
	for _, h := range l.Hosts {
		names = append(names, h.Name)
	}
	return names
}
