package nodeipam

import (
	"fmt"
	"net/netip"
	"sync"
)

// ranges are the parts of the cluster's range that nodes have. To find a free one
// costs no more with many nodes than with few.
type ranges struct {
	cidr netip.Prefix
	bits int

	mu    sync.Mutex
	taken map[netip.Prefix]int // nodes that have it; of the parts' size
	odd   map[netip.Prefix]int // of other sizes, which nobody here gave
	from  netip.Prefix         // all parts before are taken; invalid: all are
}

func newRanges(cidr netip.Prefix, bits int) *ranges {
	return &ranges{
		cidr: cidr, bits: bits, taken: map[netip.Prefix]int{}, odd: map[netip.Prefix]int{},
		from: netip.PrefixFrom(cidr.Masked().Addr(), bits),
	}
}

// move takes note that a node has one range instead of another; what is empty or
// unreadable is none.
func (r *ranges) move(old, new string) {
	if old == new {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p, of := r.read(new); of != nil {
		of[p]++
	}
	p, of := r.read(old)
	if of == nil {
		return
	}
	if of[p]--; of[p] > 0 {
		return
	}
	delete(of, p)
	first := p.Addr()
	if first.Less(r.cidr.Masked().Addr()) {
		first = r.cidr.Masked().Addr()
	}
	if r.cidr.Contains(first) && (!r.from.IsValid() || first.Less(r.from.Addr())) {
		r.from = netip.PrefixFrom(first, r.bits).Masked()
	}
}

func (r *ranges) read(text string) (p netip.Prefix, of map[netip.Prefix]int) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, nil
	case p.Bits() == r.bits:
		return p.Masked(), r.taken
	default:
		return p.Masked(), r.odd
	}
}

// free is the lowest part that overlaps none that a node has.
func (r *ranges) free() (netip.Prefix, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.from.IsValid() && r.cidr.Contains(r.from.Addr()) {
		if r.taken[r.from] == 0 && !overlapsAny(r.from, r.odd) {
			return r.from, nil
		}
		r.from = after(r.from)
	}
	r.from = netip.Prefix{}
	return netip.Prefix{}, fmt.Errorf("pod range %s has no free /%d left for another node", r.cidr, r.bits)
}

func overlapsAny(p netip.Prefix, others map[netip.Prefix]int) bool {
	for o := range others {
		if p.Overlaps(o) {
			return true
		}
	}
	return false
}

// after is the prefix of the same length that follows p; an invalid one past the
// end of the address space.
func after(p netip.Prefix) netip.Prefix {
	bytes := p.Addr().AsSlice()
	bit := p.Bits() - 1
	// Add one at the prefix's last bit, with carry.
	carry := 1 << (7 - bit%8)
	for i := bit / 8; i >= 0 && carry > 0; i-- {
		sum := int(bytes[i]) + carry
		bytes[i] = byte(sum)
		carry = sum >> 8
	}
	if carry > 0 {
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(bytes)
	return netip.PrefixFrom(addr, p.Bits())
}
