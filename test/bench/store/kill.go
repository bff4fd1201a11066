package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/musterhq/muster/test/bench/measure"
)

const (
	probeEach    = 5 * time.Millisecond
	probeTimeout = 3 * time.Second
	// Under way at once, to each survivor: more than can come together before
	// the first of them gives up, so that none is ever left out.
	probesMax  = 2 * int(probeTimeout/probeEach)
	recoverMax = 60 * time.Second
)

// killLeader kills the leader's process with SIGKILL and answers how long it
// took until a put succeeded that was begun afterwards, at a survivor to which
// the connection was open already. Probes are begun at a fixed pace at both
// survivors, whatever becomes of the ones before: neither a system that holds
// requests back nor one that refuses them has an advantage. The node is then
// started again.
func killLeader(ctx context.Context, c *cluster) (time.Duration, error) {
	leader, err := c.leader(ctx)
	if err != nil {
		return 0, err
	}
	var survivors []*node
	for _, n := range c.nodes {
		if n == leader {
			continue
		}
		survivors = append(survivors, n)
		if err := n.clients[0].put(ctx, keyAt(writePrefix, 0), make([]byte, valueBytes)); err != nil {
			return 0, fmt.Errorf("%s before the kill: %w", n.name, err)
		}
	}
	// So that trials do not fall into step with the nodes' timers.
	measure.Sleep(ctx, time.Duration(rand.Int64N(int64(500*time.Millisecond))))

	begin := time.Now()
	leader.Kill()
	took, err := firstPut(ctx, survivors, begin)
	if err != nil {
		return 0, err
	}
	if leader.Process, err = c.restart(leader); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, recoverMax)
	defer cancel()
	if err := c.awaitHealthy(ctx); err != nil {
		return 0, err
	}
	measure.Sleep(ctx, time.Second)
	return took, nil
}

func firstPut(ctx context.Context, nodes []*node, begin time.Time) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, recoverMax)
	defer cancel()
	done := make(chan time.Duration, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // before the probes are waited for
	for _, n := range nodes {
		wg.Go(func() {
			tick := time.NewTicker(probeEach)
			defer tick.Stop()
			room := make(chan struct{}, probesMax)
			for number := 0; ; number++ {
				select {
				case room <- struct{}{}:
					wg.Go(func() {
						defer func() { <-room }()
						ctx, cancel := context.WithTimeout(ctx, probeTimeout)
						defer cancel()
						if n.clients[0].put(ctx, keyAt(writePrefix, number%1000), make([]byte, valueBytes)) == nil {
							select {
							case done <- time.Since(begin):
							default:
							}
						}
					})
				default: // this one is left out
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	select {
	case took := <-done:
		return took, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("no put succeeded within %s of the leader's end", recoverMax)
	}
}
