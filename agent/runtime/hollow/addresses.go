package hollow

import (
	"errors"
	"net/netip"
)

// addresses hands out those of a pod range, each to one pod, the one given
// back longest ago last.
type addresses struct {
	prefix netip.Prefix
	last   netip.Addr
	taken  map[netip.Addr]bool
}

var (
	errNoRange   = errors.New("network is not ready: no pod range is set")
	errRangeFull = errors.New("every address of the pod range is in use")
)

func (a *addresses) take() (netip.Addr, error) {
	if !a.prefix.IsValid() {
		return netip.Addr{}, errNoRange
	}
	first := a.prefix.Addr().Next().Next() // the network's own and its gateway's
	next := first
	if a.last.IsValid() && a.prefix.Contains(a.last) {
		next = a.last.Next()
	}
	for range 1 << min(16, a.prefix.Addr().BitLen()-a.prefix.Bits()) {
		if !a.prefix.Contains(next) || !a.prefix.Contains(next.Next()) { // past the end, or broadcast
			next = first
		}
		if !a.taken[next] {
			a.taken[next] = true
			a.last = next
			return next, nil
		}
		next = next.Next()
	}
	return netip.Addr{}, errRangeFull
}

func (a *addresses) give(address netip.Addr) { delete(a.taken, address) }
