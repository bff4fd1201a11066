package gossip

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// States of a member.
const (
	Alive = "alive"
	Dead  = "dead" // does not answer
	Left  = "left" // said goodbye
)

// Gone members are listed for goneAge, and at most goneMax of them.
const (
	goneAge = 24 * time.Hour
	goneMax = 1024
)

// Member is a node as gossip knows it.
type Member struct {
	Name       string
	Role       string
	Address    string // gossip's, host:port
	APIAddress string // as the node gave it; compute nodes have none
	Version    string
	State      string    // Alive, Dead or Left
	Since      time.Time // when this node learned of the state
}

// members is kept from memberlist's events rather than read from memberlist,
// which forgets the dead and whose nodes change under the reader. Its
// callbacks run under memberlist's lock: they must not block or call back.
type members struct {
	self string
	log  *slog.Logger

	mu         sync.Mutex
	byName     map[string]entry
	change     chan struct{} // closed and replaced at each change
	disputed   bool          // see takeDispute
	complained time.Time     // of a conflict
}

type entry struct {
	Member
	leaving bool
}

func newMembers(self string, log *slog.Logger) *members {
	return &members{self: self, log: log, byName: map[string]entry{}, change: make(chan struct{})}
}

// NotifyJoin, NotifyUpdate and NotifyLeave implement memberlist.EventDelegate.
func (m *members) NotifyJoin(n *memberlist.Node)   { m.alive(n) }
func (m *members) NotifyUpdate(n *memberlist.Node) { m.alive(n) }

func (m *members) NotifyLeave(n *memberlist.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.byName[n.Name]
	if !ok {
		return
	}
	e.State = Dead
	if e.leaving {
		e.State = Left
	}
	e.Since = time.Now()
	m.put(e)
}

// NotifyConflict implements memberlist.ConflictDelegate: other claims the name
// of existing from another address, and is not believed. It comes with every
// message of either, so only one a minute is worth a line.
func (m *members) NotifyConflict(existing, other *memberlist.Node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if existing.Name == m.self {
		m.disputed = true
	}
	if now := time.Now(); now.Sub(m.complained) > time.Minute {
		m.complained = now
		m.log.Warn("two nodes claim one name; if one is the former self of the other, this ends when its death is noticed",
			"name", existing.Name, "believed", existing.Address(), "refused", other.Address())
	}
}

// takeDispute says whether another node has had this node's name since it was
// called last.
func (m *members) takeDispute() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.disputed
	m.disputed = false
	return was
}

func (m *members) alive(n *memberlist.Node) {
	a := parseAbout(n.Meta)
	m.mu.Lock()
	defer m.mu.Unlock()
	before, known := m.byName[n.Name]
	e := entry{leaving: a.Leaving, Member: Member{
		Name: n.Name, Role: a.Role, Address: n.Address(), APIAddress: a.API, Version: a.Version,
		State: Alive, Since: time.Now(),
	}}
	if known && before.State == Alive {
		e.Since = before.Since
	}
	if e != before {
		m.put(e)
	}
}

// put is called with mu held.
func (m *members) put(e entry) {
	before := m.byName[e.Name].State
	m.byName[e.Name] = e
	if before != e.State && e.Name != m.self {
		m.log.Info("member "+e.State, "name", e.Name, "role", e.Role, "address", e.Address)
	}
	close(m.change)
	m.change = make(chan struct{})
}

func (m *members) changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.change
}

func (m *members) list(now time.Time) []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(now)
	list := make([]Member, 0, len(m.byName))
	for _, e := range m.byName {
		list = append(list, e.Member)
	}
	slices.SortFunc(list, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// forget drops who has been gone for too long, and the longest gone if there
// are too many. It is called with mu held.
func (m *members) forget(now time.Time) {
	var gone []entry
	for name, e := range m.byName {
		switch {
		case e.State == Alive:
		case now.Sub(e.Since) > goneAge:
			delete(m.byName, name)
		default:
			gone = append(gone, e)
		}
	}
	if len(gone) <= goneMax {
		return
	}
	slices.SortFunc(gone, func(a, b entry) int { return a.Since.Compare(b.Since) })
	for _, e := range gone[:len(gone)-goneMax] {
		delete(m.byName, e.Name)
	}
}

// get is the member of a name.
func (m *members) get(name string) (Member, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.byName[name]
	return e.Member, ok
}
