package consensus

import (
	"context"
	"fmt"
	"math/rand"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// defaults are the timers a cluster has when nothing is set.
func defaults(c *Config) { c.Heartbeat, c.LeaderLease, c.LeaderWait = 0, 0, 0 }

// BenchmarkPropose is three nodes in one process over loopback with real fsync;
// clients are spread over the nodes and wait for each answer. Beside the
// latencies it says where the time goes: one durable write of the leader, and
// one entry from being handed to raft until it is applied.
func BenchmarkPropose(b *testing.B) {
	for _, clients := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			c := newCluster(b, 3, func(cfg *Config) { defaults(cfg) })
			c.propose(c.hosts[0], "first")
			leader := c.leader()
			took := make([]time.Duration, b.N)
			var next atomic.Int64
			var wg sync.WaitGroup
			before := sampled(leader)
			b.ResetTimer()
			for i := range clients {
				wg.Add(1)
				go func() {
					defer wg.Done()
					h := c.hosts[(i+1)%3]
					cmd := make([]byte, 256)
					for {
						k := next.Add(1) - 1
						if k >= int64(b.N) {
							return
						}
						for j := range cmd {
							cmd[j] = 'a' + byte(rand.Intn(26))
						}
						begin := time.Now()
						if _, err := h.Propose(context.Background(), cmd); err != nil {
							b.Error(err)
							return
						}
						took[k] = time.Since(begin)
					}
				}()
			}
			wg.Wait()
			b.StopTimer()
			after := sampled(leader)
			slices.Sort(took)
			ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
			b.ReportMetric(ms(took[len(took)/2]), "p50-ms")
			b.ReportMetric(ms(took[len(took)*99/100]), "p99-ms")
			b.ReportMetric(float64(b.N)/after.entries.minus(before.entries).count, "commands/entry")
			b.ReportMetric(after.disk.minus(before.disk).meanMs(), "disk-ms")
			b.ReportMetric(after.commit.minus(before.commit).meanMs(), "commit-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func BenchmarkReadBarrier(b *testing.B) {
	for _, clients := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			c := newCluster(b, 3, func(cfg *Config) { defaults(cfg) })
			c.propose(c.hosts[0], "first")
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for i := range clients {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for next.Add(1) <= int64(b.N) {
						if err := c.hosts[(i+1)%3].ReadBarrier(context.Background()); err != nil {
							b.Error(err)
							return
						}
					}
				}()
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reads/s")
		})
	}
}

// BenchmarkLeaderKilled is the time from the leader's death until a survivor's
// next command is applied.
func BenchmarkLeaderKilled(b *testing.B) {
	c := newCluster(b, 3, func(cfg *Config) { defaults(cfg); cfg.LeaderWait = time.Minute })
	var took []time.Duration
	for i := range b.N {
		b.StopTimer()
		leader, survivor := c.leader(), c.followers()[i%2]
		for _, h := range c.followers() {
			c.propose(h, fmt.Sprint("before", i))
		}
		time.Sleep(time.Duration(rand.Intn(100)) * time.Millisecond)
		b.StartTimer()
		begin := time.Now()
		dead := make(chan struct{})
		go func() {
			defer close(dead)
			leader.kill()
		}()
		time.Sleep(time.Millisecond)
		c.propose(survivor, fmt.Sprint("after", i))
		took = append(took, time.Since(begin))
		b.StopTimer()
		<-dead
		leader.start()
		c.barrier(leader)
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "p50-ms")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "max-ms")
}

type sample struct{ count, sum float64 }

func (s sample) minus(o sample) sample { return sample{s.count - o.count, s.sum - o.sum} }
func (s sample) meanMs() float64       { return 1000 * s.sum / max(s.count, 1) }

type samples struct{ entries, disk, commit sample }

func sampled(h *host) samples {
	read := func(m prometheus.Metric) sample {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			h.t.Fatal(err)
		}
		if d.Counter != nil {
			return sample{count: d.Counter.GetValue()}
		}
		return sample{float64(d.Histogram.GetSampleCount()), d.Histogram.GetSampleSum()}
	}
	m := h.metrics
	return samples{read(m.entries), read(m.disk), read(m.commit)}
}
