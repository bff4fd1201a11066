package store

import (
	"slices"
	"sync"
	"time"

	"github.com/musterhq/muster/fsm/kv"
)

// A view that is kept holds on to what was overwritten since, so it goes when
// it is old, when there are too many, or when the state has moved on by about
// as much as the watch history remembers anyway.
const (
	viewsMax     = 64
	viewAge      = 5 * time.Minute
	viewLagMax   = 100_000 // revisions
	viewInterval = time.Minute
)

// views are the states that lists are being read page by page from.
type views struct {
	newest func() uint64 // revision

	mu       sync.Mutex
	kept     []keptView // oldest first
	sweeping bool
}

type keptView struct {
	view    *kv.View
	touched time.Time
}

func newViews(newest func() uint64) *views { return &views{newest: newest} }

// viewAt returns the state that a list is read from.
func (s *Store) viewAt(p position) (*kv.View, error) {
	newest := s.machine.View()
	if p.Revision == 0 || p.Revision == newest.Revision() {
		return newest, nil
	}
	if view := s.views.find(p.Revision); view != nil {
		return view, nil
	}
	expired := &ExpiredError{}
	if p.After != "" {
		expired.Continue = position{After: p.After}.String()
	}
	return nil, expired
}

func (v *views) find(revision uint64) *kv.View {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.drop()
	if i := v.index(revision); i >= 0 {
		return v.kept[i].view
	}
	return nil
}

// keep holds a view for the pages to come.
func (v *views) keep(view *kv.View) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if i := v.index(view.Revision()); i >= 0 {
		view = v.kept[i].view
		v.kept = slices.Delete(v.kept, i, i+1)
	}
	v.kept = append(v.kept, keptView{view: view, touched: time.Now()})
	v.drop()
	if !v.sweeping {
		v.sweeping = true
		time.AfterFunc(viewInterval, v.sweep)
	}
}

// sweep lets go of views that nobody came back for.
func (v *views) sweep() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.drop()
	if v.sweeping = len(v.kept) > 0; v.sweeping {
		time.AfterFunc(viewInterval, v.sweep)
	}
}

func (v *views) drop() {
	newest := v.newest()
	v.kept = slices.DeleteFunc(v.kept, func(k keptView) bool {
		return time.Since(k.touched) > viewAge || k.view.Revision()+viewLagMax < newest
	})
	if n := len(v.kept) - viewsMax; n > 0 {
		v.kept = slices.Delete(v.kept, 0, n)
	}
}

func (v *views) index(revision uint64) int {
	return slices.IndexFunc(v.kept, func(k keptView) bool { return k.view.Revision() == revision })
}
