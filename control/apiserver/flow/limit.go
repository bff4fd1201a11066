package flow

import "sync"

// Limit bounds how many of something there are, and how many of them one client
// has. What it counts lasts: whoever comes at the bound is refused.
type Limit struct {
	total, each int

	mu  sync.Mutex
	now int
	by  map[string]int
}

// NewLimit returns a limit.
func NewLimit(total, each int) *Limit {
	return &Limit{total: total, each: each, by: map[string]int{}}
}

// Enter counts one more of a client's, or says that there is no room. Whoever
// entered calls Leave.
func (l *Limit) Enter(client string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now >= l.total || l.by[client] >= l.each {
		return false
	}
	l.now++
	l.by[client]++
	return true
}

// Leave counts one less.
func (l *Limit) Leave(client string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now--
	if l.by[client]--; l.by[client] == 0 {
		delete(l.by, client)
	}
}
