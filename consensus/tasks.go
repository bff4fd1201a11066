package consensus

import (
	"sync"
	"time"
)

// tasks are goroutines that a node waits for when it stops.
type tasks struct {
	mu      sync.Mutex
	over    bool
	running sync.WaitGroup
}

// start runs f unless the node is stopping, which it says.
func (t *tasks) start(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	t.running.Go(f)
	return true
}

// end starts nothing more and waits for what runs, but not longer than a bound.
func (t *tasks) end(bound time.Duration) {
	t.mu.Lock()
	t.over = true
	t.mu.Unlock()
	within(bound, t.running.Wait)
}

// within waits for f, but not longer than a bound; it says if f returned.
func within(bound time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
