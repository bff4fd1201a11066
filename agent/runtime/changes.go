package runtime

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// Changes collects the names of pods something happened to, each once, until
// they are asked for. It is how implementations keep Runtime.Changed's promise
// with memory bounded by the number of pods.
type Changes struct {
	mu    sync.Mutex
	named map[string]struct{}
	wake  chan struct{}
}

func NewChanges() *Changes {
	return &Changes{named: map[string]struct{}{}, wake: make(chan struct{}, 1)}
}

// Add never blocks.
func (c *Changes) Add(uid string) {
	c.mu.Lock()
	c.named[uid] = struct{}{}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Wait answers what was added since the last call, or waits for something.
func (c *Changes) Wait(ctx context.Context) ([]string, error) {
	for {
		c.mu.Lock()
		uids := slices.Collect(maps.Keys(c.named))
		clear(c.named)
		c.mu.Unlock()
		if len(uids) > 0 {
			return uids, nil
		}
		select {
		case <-c.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
