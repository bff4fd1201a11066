package consensus

import (
	"sync"
	"time"
)

const (
	// A non-voter that lags by more than this starts over with being stable.
	candidateLagMax = 16 * voterLagMax
	// candidateGapMax is the longest silence of a non-voter in steady contact;
	// it reports twenty times a second, and once a second while it is not heard.
	candidateGapMax = 2 * time.Second
	candidatesMax   = 64
)

// candidates remembers since when each server that wants to vote has been
// well, as one term's leader hears it.
type candidates struct {
	mu   sync.Mutex
	term uint64
	of   map[string]spell
}

type spell struct{ since, last time.Time }

// well notes that the server is well now, and says for how long without a
// break. With too many servers it is the new ones that do not get on.
func (c *candidates) well(term uint64, server string, now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.term != term || c.of == nil {
		c.term, c.of = term, map[string]spell{}
	}
	for name, it := range c.of {
		if now.Sub(it.last) > candidateGapMax {
			delete(c.of, name)
		}
	}
	it, known := c.of[server]
	switch {
	case !known && len(c.of) == candidatesMax:
		return 0
	case !known:
		it.since = now
	}
	it.last = now
	c.of[server] = it
	return now.Sub(it.since)
}

func (c *candidates) forget(server string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.of, server)
}
