package managedfields

import "sync"

// slab is memory for the sets of one update, which are gone after it: most of
// what an update would otherwise cost is making and collecting them.
type slab struct {
	// open are the items of sets that are being made, the innermost set's last;
	// openToo those of what is removed meanwhile.
	open, openToo []item
	// piece holds sets that are made, as far as used.
	piece []item
	used  int
}

const (
	slabItems = 512
	// slabItemsMax is what is kept for the next update.
	slabItemsMax = 8192
)

var slabs = sync.Pool{New: func() any { return &slab{} }}

// borrow gives a slab, and the function that gives it back with all sets in it.
func borrow() (*slab, func()) {
	s := slabs.Get().(*slab)
	return s, func() {
		clear(s.piece[:s.used])
		s.open, s.openToo, s.used = s.open[:0], s.openToo[:0], 0
		if len(s.piece)+cap(s.open)+cap(s.openToo) <= slabItemsMax {
			slabs.Put(s)
		}
	}
}

// keep makes a set of items.
func (s *slab) keep(items []item) set {
	if len(items) == 0 {
		return nil
	}
	if len(s.piece)-s.used < len(items) {
		s.piece, s.used = make([]item, max(slabItems, len(items))), 0
	}
	from := s.used
	s.used += copy(s.piece[from:], items)
	return s.piece[from:s.used:s.used]
}
