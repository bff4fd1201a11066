package resource

import (
	"encoding/binary"
	"math"
	"net/netip"
)

// freeAddress finds an address of prefix that is not taken: a random one of the
// upper part, or else of the lower, which is kept for those who name theirs.
// random(n) is below n.
func freeAddress(prefix netip.Prefix, taken func(netip.Addr) bool, random func(n uint64) uint64) (netip.Addr, bool) {
	first, size := prefix.Masked().Addr().Next(), usableSize(prefix)
	lower := lowerPart(prefix)
	for _, part := range []struct{ from, size uint64 }{{lower, size - lower}, {0, lower}} {
		if part.size == 0 {
			continue
		}
		start := random(part.size)
		for i := range part.size {
			if ip := advance(first, part.from+(start+i)%part.size); !taken(ip) {
				return ip, true
			}
		}
	}
	return netip.Addr{}, false
}

// usable says whether services may have the address, as far as prefix goes. Its
// first address is nobody's, nor is IPv4's last.
func usable(prefix netip.Prefix, ip netip.Addr) bool {
	first := prefix.Masked().Addr()
	if !prefix.Contains(ip) || ip == first {
		return false
	}
	return ip.Is6() || ip != advance(first, usableSize(prefix)+1)
}

// usableSize is how many addresses services may have, as far as 64 bits count.
func usableSize(prefix netip.Prefix) uint64 {
	bits := prefix.Addr().BitLen() - prefix.Bits()
	if bits >= 64 {
		return math.MaxUint64
	}
	size := uint64(1)<<bits - 1
	if prefix.Addr().Is4() && size > 0 {
		size--
	}
	return size
}

// lowerPart is how many of the first addresses are given out last: a sixteenth,
// 16 at least and 256 at most, and none of a range of 16 (KEP-3070).
func lowerPart(prefix netip.Prefix) uint64 {
	bits := prefix.Addr().BitLen() - prefix.Bits()
	if bits <= 4 {
		return 0
	}
	return min(max(16, uint64(1)<<min(bits, 63)/16), 256)
}

// advance is the address n after ip. It stays within what holds both.
func advance(ip netip.Addr, n uint64) netip.Addr {
	if ip.Is4() {
		b := ip.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(n))
		return netip.AddrFrom4(b)
	}
	b := ip.As16()
	low := binary.BigEndian.Uint64(b[8:])
	if low+n < low {
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])+1)
	}
	binary.BigEndian.PutUint64(b[8:], low+n)
	return netip.AddrFrom16(b)
}
