package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/test/bench/measure"
	"github.com/musterhq/muster/test/bench/process"
	"github.com/musterhq/muster/test/bench/system"
)

const (
	restTime       = 5 * time.Second // before memory is read
	memoryWatchers = 100
	memoryLists    = 5 // of each form
)

// Memory is that of a cluster's nodes, each with all its processes, before and
// after the same work on both systems, and how long they took to start.
type Memory struct {
	Idle    []process.Residence `json:"idle"`
	Loaded  []process.Residence `json:"loaded"`
	Ready   float64             `json:"readyMs"`   // from the programs' start in empty directories until /readyz
	Restart float64             `json:"restartMs"` // the same with what the work has left behind
}

// memory has a fresh cluster do the work: so many pods created, their status
// patched once, each form of list read some times, and watchers that hear of all
// of it and still watch when memory is read.
func (b *bench) memory(ctx context.Context, s system.System, count int) (m Memory, err error) {
	c, ready, err := b.startCluster(ctx, s, count)
	if err != nil {
		return m, err
	}
	defer b.stopCluster(c)
	m.Ready = measure.Milliseconds(ready)
	measure.Sleep(ctx, restTime)
	if m.Idle, err = c.Residences(); err != nil {
		return m, err
	}
	if err := b.work(ctx, c, &m); err != nil {
		return m, err
	}
	c.hangUp()
	c.Kill()
	restart, err := c.Restart(ctx)
	m.Restart = measure.Milliseconds(restart)
	return m, err
}

func (b *bench) work(ctx context.Context, c *cluster, m *Memory) error {
	namespace := namespaceOf(b.pods)
	if _, err := c.fill(ctx, namespace, b.pods); err != nil {
		return err
	}
	watching, hangUp := context.WithCancel(ctx)
	var listening sync.WaitGroup
	defer listening.Wait()
	defer hangUp()
	if _, err := (fanOut{media: inProtobuf, watchers: memoryWatchers, pods: b.pods}).watch(watching, c, time.Now(), &listening); err != nil {
		return err
	}
	clients, err := c.clients(fillClients, inProtobuf)
	if err != nil {
		return err
	}
	patches := make(chan int)
	go func() {
		defer close(patches)
		for i := range b.pods {
			patches <- i
		}
	}()
	round, err := measure.Load{
		Workers: fillClients, Count: int64(b.pods),
		Do: func(ctx context.Context, worker int) error {
			body, err := statusPatch("patched once")
			if err != nil {
				return err
			}
			return clients[worker].patchStatus(ctx, namespace, podName(<-patches), body)
		},
	}.Run(ctx, c.Costs())
	if err != nil {
		return err
	}
	if round.Errors > 0 {
		return fmt.Errorf("%s: %d of %d patches failed: %s", c.Name(), round.Errors, b.pods, round.FirstError)
	}
	for _, media := range []string{inJSON, inProtobuf} {
		held, err := c.connect(0)
		if err != nil {
			return err
		}
		client, err := held.in(media)
		if err != nil {
			return err
		}
		for range memoryLists {
			if err := client.listPods(ctx, namespace, false, metav1.ListOptions{}, io.Discard); err != nil {
				return err
			}
		}
	}
	measure.Sleep(ctx, restTime)
	m.Loaded, err = c.Residences()
	return err
}

// worst is the largest figure of any node.
func worst(nodes []process.Residence, figure func(process.Residence) float64) (largest float64) {
	for _, n := range nodes {
		largest = max(largest, figure(n))
	}
	return largest
}

func rss(r process.Residence) float64  { return r.RSS }
func anon(r process.Residence) float64 { return r.Anon }
func peak(r process.Residence) float64 { return r.Peak }
