package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// freeSubnet finds a /24 that no route or address of this machine overlaps.
func freeSubnet() (netip.Prefix, error) {
	used, err := usedPrefixes("")
	if err != nil {
		return netip.Prefix{}, err
	}
	return chooseSubnet(used)
}

func chooseSubnet(used []netip.Prefix) (netip.Prefix, error) {
candidates:
	for second := byte(77); second < 96; second++ {
		candidate := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, second, 0, 0}), 24)
		for _, u := range used {
			if u.Overlaps(candidate) {
				continue candidates
			}
		}
		return candidate, nil
	}
	return netip.Prefix{}, errors.New("every subnet from 10.77.0.0/24 to 10.95.0.0/24 is in use on this machine; choose one with --subnet")
}

// checkSubnet refuses one that would take addresses away from somebody else.
func (l *Lab) checkSubnet() error {
	if l.Subnet.Bits() != 24 || !l.Subnet.Addr().Is4() || l.Subnet.Masked() != l.Subnet {
		return fmt.Errorf("subnet %v: want an IPv4 /24, as 10.77.0.0/24", l.Subnet)
	}
	used, err := usedPrefixes(l.Name)
	if err != nil {
		return err
	}
	for _, u := range append(used, podRange) {
		if u.Overlaps(l.Subnet) {
			return fmt.Errorf("subnet %v overlaps %v, which this machine uses; choose another with --subnet", l.Subnet, u)
		}
	}
	return nil
}

// usedPrefixes are where this machine's routes lead, except the default route
// and those of one interface.
func usedPrefixes(except string) ([]netip.Prefix, error) {
	skip := -1
	if link, err := netlink.LinkByName(except); err == nil {
		skip = link.Attrs().Index
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var used []netip.Prefix
	for _, r := range routes {
		if r.Dst == nil || r.LinkIndex == skip {
			continue
		}
		ip, ok := netip.AddrFromSlice(r.Dst.IP.To4())
		bits, _ := r.Dst.Mask.Size()
		if ok && bits > 0 {
			used = append(used, netip.PrefixFrom(ip, bits))
		}
	}
	return used, nil
}
