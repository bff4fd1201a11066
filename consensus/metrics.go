package consensus

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics say where the time of a write goes.
type metrics struct {
	commands, entries prometheus.Counter
	disk, commit      prometheus.Histogram
}

func newMetrics() *metrics {
	buckets := prometheus.ExponentialBuckets(0.0001, 2, 16)
	return &metrics{
		commands: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "muster_consensus_commands_total", Help: "Commands this node put into the log as leader."}),
		entries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "muster_consensus_entries_total", Help: "Log entries those commands shared."}),
		disk: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "muster_consensus_disk_write_seconds", Help: "One durable write to the log or the stable store.", Buckets: buckets}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "muster_consensus_commit_seconds", Help: "From handing an entry to raft until it is committed and applied here.", Buckets: buckets}),
	}
}

func (m *metrics) register(n *Node, r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	for _, c := range []prometheus.Collector{
		m.commands, m.entries, m.disk, m.commit,
		gauge("muster_consensus_leader", "1 while this node leads.", func() float64 {
			if l, _ := n.term.get(); l != nil {
				return 1
			}
			return 0
		}),
		gauge("muster_consensus_term", "Raft's term.", func() float64 { return float64(n.raft.CurrentTerm()) }),
		gauge("muster_consensus_last_index", "Newest entry in this node's log.", func() float64 { return float64(n.raft.LastIndex()) }),
		gauge("muster_consensus_applied_index", "Newest entry applied here.", func() float64 { return float64(n.progress.applied()) }),
	} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) entry(commands int) {
	m.commands.Add(float64(commands))
	m.entries.Inc()
}

func (m *metrics) diskWrite(took time.Duration) { m.disk.Observe(took.Seconds()) }
func (m *metrics) committed(begin time.Time)    { m.commit.Observe(time.Since(begin).Seconds()) }
