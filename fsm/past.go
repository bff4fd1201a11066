package fsm

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/musterhq/muster/fsm/kv"
	"github.com/musterhq/muster/fsm/watch"
)

// ErrAhead says that a replica has not reached a revision yet.
var ErrAhead = errors.New("revision is not reached yet")

// A list of many pages asks for the same revision again and again, so what was
// rewound for one page is kept for the next: at most pastMax views, for
// pastIdle after the last use, and no longer than the history reaches back. So
// one keeps alive no items that the history does not, only nodes of the index
// that have changed since: 24 bytes for each key at worst.
const (
	pastMax  = 16
	pastIdle = time.Minute
)

// past is what the state was, as far as somebody asked lately.
type past struct {
	rewinding sync.Mutex // one at a time, so that many cost no more than one processor

	mu    sync.Mutex
	epoch uint64     // counts Restores
	views []pastView // the one longest unused first
}

type pastView struct {
	table string // with its "/"; "": all
	view  *kv.View
	used  time.Time
}

// ViewAt returns the state at a revision, as far as keys with the prefix go;
// others may be as they were at any revision since. watch.ErrCompacted when the
// history of the prefix's table does not reach back that far, ErrAhead when
// this replica is not there yet.
//
// The state is the newest one with the history undone, so every replica whose
// history reaches back has it, whoever was asked before. That takes about a
// microsecond per event of the table since then, once for all pages of a list.
func (m *Machine) ViewAt(prefix string, revision uint64) (*kv.View, error) {
	newest := m.View()
	switch {
	case revision == newest.Revision():
		return newest, nil
	case revision > newest.Revision():
		return nil, fmt.Errorf("revision %d of %d: %w", revision, newest.Revision(), ErrAhead)
	}
	table := prefix[:strings.IndexByte(prefix, '/')+1]
	if view, err := m.kept(table, revision); view != nil || err != nil {
		return view, err
	}
	m.past.rewinding.Lock()
	defer m.past.rewinding.Unlock()
	if view, err := m.kept(table, revision); view != nil || err != nil {
		return view, err // somebody else was faster
	}
	epoch := m.past.begin()
	newest = m.View()
	state := newest.Map()
	if err := m.history.Undo(table, newest.Revision(), revision, func(e watch.Event) {
		if e.Prev != nil {
			state.Put(e.Prev)
		} else {
			state.Delete(e.Item.Key)
		}
	}); err != nil {
		return nil, err
	}
	view := state.Clone(revision)
	m.past.sweep(time.Now(), m.history)
	if !m.past.keep(pastView{table: table, view: view, used: time.Now()}, epoch) {
		return nil, watch.ErrCompacted // restored meanwhile
	}
	return view, nil
}

// kept returns a view that was rewound before, nil if there is none.
func (m *Machine) kept(table string, revision uint64) (*kv.View, error) {
	if !m.history.Reaches(table, revision) {
		return nil, watch.ErrCompacted
	}
	return m.past.find(table, revision, time.Now()), nil
}

func (p *past) find(table string, revision uint64, now time.Time) *kv.View {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.views, func(v pastView) bool { return v.table == table && v.view.Revision() == revision })
	if i < 0 {
		return nil
	}
	found := p.views[i]
	found.used = now
	p.views = append(slices.Delete(p.views, i, i+1), found)
	return found.view
}

func (p *past) begin() (epoch uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch
}

func (p *past) keep(v pastView, epoch uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.epoch != epoch {
		return false
	}
	if len(p.views) == pastMax {
		p.views = slices.Delete(p.views, 0, 1)
	}
	p.views = append(p.views, v)
	return true
}

func (p *past) sweep(now time.Time, history *watch.History) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.views = slices.DeleteFunc(p.views, func(v pastView) bool {
		return now.Sub(v.used) > pastIdle || !history.Reaches(v.table, v.view.Revision())
	})
}

// forget is for when the state is replaced.
func (p *past) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch++
	p.views = nil
}
