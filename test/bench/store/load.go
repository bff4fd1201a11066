package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/musterhq/muster/test/bench/measure"
)

const (
	keyspace     = "bench/"
	readPrefix   = keyspace + "read/"
	writePrefix  = keyspace + "write/"
	watchPrefix  = keyspace + "watch/"
	keyBytes     = 32
	valueBytes   = 256 // of what is read, and of puts unless the case says
	loadClients  = 64  // for filling and for cases that do not vary them
	failurePause = 10 * time.Millisecond
)

// keyAt is the number-th key with a prefix, of keyBytes bytes.
func keyAt(prefix string, number int) []byte {
	return fmt.Appendf(nil, "%s%0*d", prefix, keyBytes-len(prefix), number)
}

// worker is one of many that work alike. Each waits for its answer before it
// asks again.
type worker struct {
	client
	random *rand.Rand
	value  []byte
	keys   int
}

func newWorker(c client, number, keys, size int) *worker {
	w := &worker{client: c, random: rand.New(rand.NewPCG(uint64(number), 1)), value: make([]byte, size), keys: keys}
	for i := range w.value {
		w.value[i] = byte(w.random.Uint32())
	}
	return w
}

func (w *worker) putTo(ctx context.Context, prefix string) error {
	binary.LittleEndian.PutUint64(w.value, w.random.Uint64()) // never the same bytes
	return w.put(ctx, keyAt(prefix, w.random.IntN(w.keys)), w.value)
}

func (w *worker) getFrom(ctx context.Context, prefix string, local bool) error {
	return w.get(ctx, keyAt(prefix, w.random.IntN(w.keys)), local)
}

// load is what workers do: for a time, or so many times altogether.
type load struct {
	workers  int
	keys     int
	size     int
	warm     time.Duration // not counted
	duration time.Duration // ignored when there is a count
	count    int64
	do       func(ctx context.Context, w *worker) error
}

// run drives the load against a cluster.
func (l load) run(ctx context.Context, c *cluster, clients []client, other *cluster) (measure.Round, error) {
	var workers []*worker
	for i := range l.workers {
		workers = append(workers, newWorker(clients[i%len(clients)], i, l.keys, l.size))
	}
	return measure.Load{
		Workers: l.workers, Warm: l.warm, Duration: l.duration, Count: l.count,
		Do: func(ctx context.Context, i int) error { return l.do(ctx, workers[i]) },
	}.Run(ctx, costs(c, other))
}

// costs are those of a cluster; the other one, which is idle, may be nil.
func costs(c, other *cluster) measure.Costs {
	costs := measure.Costs{Servers: c.usage}
	if other != nil {
		costs.Bystanders = other.usage
	}
	return costs
}
