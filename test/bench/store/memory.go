package main

import (
	"context"
	"fmt"
	"time"

	"github.com/musterhq/muster/test/bench/measure"
	"github.com/musterhq/muster/test/bench/process"
)

// restTime is given to nodes before their memory is read, so that what is
// under way does not count.
const restTime = 3 * time.Second

// memory is what a fresh cluster's nodes hold before and after a number of
// puts.
func (b *bench) memory(ctx context.Context, s system) (Memory, error) {
	c, err := b.startCluster(ctx, s)
	if err != nil {
		return Memory{}, err
	}
	defer b.stopCluster(c)
	measure.Sleep(ctx, restTime)
	result := Memory{Keys: b.keys}
	if result.Idle, err = residences(c); err != nil {
		return result, err
	}
	clients, err := c.leaderFirst(ctx)
	if err != nil {
		return result, err
	}
	round, err := load{
		workers: loadClients, keys: b.keys, size: valueBytes, count: b.memoryPuts,
		do: func(ctx context.Context, w *worker) error { return w.putTo(ctx, writePrefix) },
	}.run(ctx, c, clients, nil)
	if err != nil {
		return result, err
	}
	if round.Errors > 0 {
		return result, fmt.Errorf("%d of %d puts failed: %s", round.Errors, b.memoryPuts, round.FirstError)
	}
	result.Puts, result.PerSecond = round.Count, round.PerSecond
	measure.Sleep(ctx, restTime)
	result.Loaded, err = residences(c)
	return result, err
}

func residences(c *cluster) (all []process.Residence, err error) {
	for _, n := range c.nodes {
		r, err := n.Residence()
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}
