package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	keyspace     = "bench/"
	readPrefix   = keyspace + "read/"
	writePrefix  = keyspace + "write/"
	watchPrefix  = keyspace + "watch/"
	keyBytes     = 32
	valueBytes   = 256 // of what is read, and of puts unless the case says
	loadClients  = 64  // for filling and for cases that do not vary them
	opTimeout    = 15 * time.Second
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

// run drives the load against a cluster. Operations that fail are counted, not
// timed, and a worker pauses after one.
func (l load) run(ctx context.Context, c *cluster, clients []client, other *cluster) (Round, error) {
	if l.count == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.warm+l.duration+opTimeout)
		defer cancel()
	}
	begin := time.Now()
	counted, end := begin.Add(l.warm), begin.Add(l.warm+l.duration)
	var started atomic.Int64
	var wg sync.WaitGroup
	each := make([]latencies, l.workers)
	errs := make([]failures, l.workers)
	for i := range l.workers {
		w := newWorker(clients[i%len(clients)], i, l.keys, l.size)
		wg.Go(func() {
			for ctx.Err() == nil {
				if l.count > 0 && started.Add(1) > l.count {
					return
				}
				asked := time.Now()
				if l.count == 0 && asked.After(end) {
					return
				}
				err := l.do(ctx, w)
				answered := time.Now()
				if l.count == 0 && (answered.Before(counted) || answered.After(end)) {
					continue
				}
				if err != nil {
					errs[i].add(err)
					time.Sleep(failurePause)
					continue
				}
				each[i].record(answered.Sub(asked))
			}
		})
	}
	sleep(ctx, l.warm)
	meter, err := startMeter(c, other)
	if err != nil {
		return Round{}, err
	}
	if l.count == 0 {
		sleep(ctx, l.duration)
	} else {
		wg.Wait()
	}
	round, err := meter.stop()
	if err != nil {
		return Round{}, err
	}
	wg.Wait()
	if l.count == 0 {
		round.Seconds = l.duration.Seconds()
	}
	var all latencies
	var failed failures
	for i := range each {
		all.add(&each[i])
		failed.merge(errs[i])
	}
	round.measured(&all)
	round.Errors, round.FirstError = failed.count, failed.first
	return round, nil
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

type failures struct {
	count uint64
	first string
}

func (f *failures) add(err error) { f.merge(failures{1, err.Error()}) }

func (f *failures) merge(other failures) {
	f.count += other.count
	if f.first == "" {
		f.first = other.first
	}
}

// meter counts what a piece of work costs: the nodes that do it, this program,
// and the nodes of the other system, which should cost next to nothing.
type meter struct {
	c, other *cluster
	begin    time.Time
	before   [3]usage
}

func startMeter(c, other *cluster) (*meter, error) {
	m := &meter{c: c, other: other, begin: time.Now()}
	var err error
	m.before, err = m.read()
	return m, err
}

func (m *meter) read() (now [3]usage, err error) {
	if now[0], err = m.c.usage(); err != nil {
		return now, err
	}
	if now[1], err = usageOf(os.Getpid()); err != nil {
		return now, err
	}
	if m.other != nil {
		now[2], err = m.other.usage()
	}
	return now, err
}

// stop answers a round that has everything but latencies.
func (m *meter) stop() (Round, error) {
	took := time.Since(m.begin)
	now, err := m.read()
	return Round{
		Seconds:       took.Seconds(),
		serverUsage:   now[0].minus(m.before[0]),
		clientCPU:     now[1].minus(m.before[1]).cpu,
		BystanderCPUs: now[2].minus(m.before[2]).cpu.Seconds() / took.Seconds(),
	}, err
}
