package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ourProtocol marks the routes that are ours, so that stale ones are found
// again after a restart.
const ourProtocol netlink.RouteProtocol = 109

// setRoutes makes our routes those wanted.
func setRoutes(want desired) error {
	mine, err := ownAddresses()
	if err != nil {
		return err
	}
	var errs []error
	wanted := map[netip.Prefix]bool{}
	for _, r := range want.Routes {
		if !r.Address.Is4() || !r.PodCIDR.IsValid() || r.PodCIDR.Overlaps(want.PodCIDR) || mine[r.Address] {
			continue
		}
		wanted[r.PodCIDR.Masked()] = true
		err := netlink.RouteReplace(&netlink.Route{Dst: ipNet(r.PodCIDR.Masked()), Gw: r.Address.AsSlice(), Protocol: ourProtocol})
		if err != nil {
			errs = append(errs, fmt.Errorf("route to the pods of %s (%s via %s): %w", r.Node, r.PodCIDR, r.Address, err))
		}
	}
	found, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: ourProtocol}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("list routes: %w", err))...)
	}
	for _, r := range found {
		prefix, ok := prefixOf(r.Dst)
		if ok && wanted[prefix] {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove the stale route to %s: %w", r.Dst, err))
		}
	}
	return errors.Join(errs...)
}

func ownAddresses() (map[netip.Addr]bool, error) {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	own := map[netip.Addr]bool{}
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				own[addr.Unmap()] = true
			}
		}
	}
	return own, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits), ok
}
