package workloads

import (
	"sync"
	"time"
)

// air is who reaches whom: machines of one side hear each other, those of side 0
// the control plane as well. It is what the leader hears of agents, too.
type air struct {
	mu      sync.Mutex
	side    map[string]int
	changed chan struct{}
}

func newAir() *air { return &air{side: map[string]int{}, changed: make(chan struct{})} }

func (a *air) reaches(one, other string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.side[one] == a.side[other]
}

// connected says whether a machine reaches the control plane.
func (a *air) connected(node string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.side[node] == 0
}

func (a *air) move(node string, side int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.side[node] = side
	close(a.changed)
	a.changed = make(chan struct{})
}

// Alive, SilentFor, Ready and Changed implement nodelifecycle.Presence.
func (a *air) Alive(node string) (session, gossip bool) {
	heard := a.connected(node)
	return heard, heard
}

func (a *air) SilentFor(string) time.Duration { return 0 }

func (a *air) Ready() bool { return true }

func (a *air) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

// Lossy is who is there when machines are cut off and come back.
var Lossy = []User{
	{"stateful set", keepStateful},
	{"losses", cutOff},
}

// lossesFor is how long machines are cut off, again and again.
const lossesFor = 10 * time.Minute

// cutOff cuts machines off: one, or several alone or together, for a moment or
// for long.
func cutOff(w *world) {
	time.Sleep(30 * time.Second) // until they count as witnesses
	for began := time.Now(); time.Since(began) < lossesFor; {
		for i, n := range w.shuffled(machines)[:1+w.chance(machines)] {
			w.air.move(nodeName(n), 1+i*w.chance(2))
		}
		long := 3 * time.Second
		if w.chance(3) > 0 {
			long = 90 * time.Second
		}
		time.Sleep(w.upTo(long))
		for n := range machines {
			w.air.move(nodeName(n), 0)
		}
		time.Sleep(w.upTo(30 * time.Second))
	}
}
