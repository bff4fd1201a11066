// Package measure is what the programs that compare systems share: load, what
// it costs, and figures in tables. What is asked of whom is theirs.
package measure

import (
	"cmp"
	"time"

	"github.com/musterhq/muster/test/bench/process"
)

// Round is one run of one case. Latencies are in milliseconds; costs are for
// each operation, or for each event delivered. CPU of servers is of all nodes
// together.
type Round struct {
	Seconds      float64 `json:"seconds"`
	Count        uint64  `json:"count"`
	PerSecond    float64 `json:"perSecond"`
	P50          float64 `json:"p50ms"`
	P90          float64 `json:"p90ms"`
	P99          float64 `json:"p99ms"`
	P999         float64 `json:"p999ms"`
	Max          float64 `json:"maxms"`
	ServerMicros float64 `json:"serverCPUus"`
	ClientMicros float64 `json:"clientCPUus"`
	WrittenKiB   float64 `json:"writtenKiB"`
	// BystanderCPUs is how much of a core the idle nodes of the other system took.
	BystanderCPUs float64 `json:"bystanderCPUs"`
	Errors        uint64  `json:"errors,omitempty"`
	FirstError    string  `json:"firstError,omitempty"`
	LeaderChanged bool    `json:"leaderChanged,omitempty"`

	servers process.Usage
	client  time.Duration
}

// Measured fills in what follows from the latencies; Seconds is there, and what
// a Meter counted.
func (r *Round) Measured(l *Latencies) {
	r.Count = l.count
	if l.count == 0 || r.Seconds <= 0 {
		return
	}
	each := float64(l.count)
	r.PerSecond = each / r.Seconds
	r.P50, r.P90 = Milliseconds(l.Quantile(.5)), Milliseconds(l.Quantile(.9))
	r.P99, r.P999, r.Max = Milliseconds(l.Quantile(.99)), Milliseconds(l.Quantile(.999)), Milliseconds(l.max)
	r.ServerMicros = float64(r.servers.CPU.Microseconds()) / each
	r.ClientMicros = float64(r.client.Microseconds()) / each
	r.WrittenKiB = float64(r.servers.Written) / 1024 / each
}

// MedianRound takes the median of each figure on its own. Counts and errors
// are added up.
func MedianRound(rounds []Round) Round {
	of := func(figure func(Round) float64) float64 {
		var values []float64
		for _, r := range rounds {
			values = append(values, figure(r))
		}
		return Median(values)
	}
	m := Round{
		Seconds: of(func(r Round) float64 { return r.Seconds }), PerSecond: of(func(r Round) float64 { return r.PerSecond }),
		P50: of(func(r Round) float64 { return r.P50 }), P90: of(func(r Round) float64 { return r.P90 }),
		P99: of(func(r Round) float64 { return r.P99 }), P999: of(func(r Round) float64 { return r.P999 }),
		Max:          of(func(r Round) float64 { return r.Max }),
		ServerMicros: of(func(r Round) float64 { return r.ServerMicros }), ClientMicros: of(func(r Round) float64 { return r.ClientMicros }),
		WrittenKiB: of(func(r Round) float64 { return r.WrittenKiB }), BystanderCPUs: of(func(r Round) float64 { return r.BystanderCPUs }),
	}
	for _, r := range rounds {
		m.Count += r.Count
		m.Errors += r.Errors
		m.FirstError = cmp.Or(m.FirstError, r.FirstError)
		m.LeaderChanged = m.LeaderChanged || r.LeaderChanged
	}
	return m
}

// Costs are whose a piece of work is counted as: those that do it, and those of
// the other system, which should cost next to nothing; nil: there are none.
type Costs struct {
	Servers, Bystanders func() (process.Usage, error)
}

// Meter counts what a piece of work costs: the servers, this program, and the
// bystanders.
type Meter struct {
	costs  Costs
	begin  time.Time
	before [3]process.Usage
}

// Begin starts to count.
func (c Costs) Begin() (*Meter, error) {
	m := &Meter{costs: c, begin: time.Now()}
	var err error
	m.before, err = m.read()
	return m, err
}

func (m *Meter) read() (now [3]process.Usage, err error) {
	if now[0], err = m.costs.Servers(); err != nil {
		return now, err
	}
	if now[1], err = process.OwnUsage(); err != nil {
		return now, err
	}
	if m.costs.Bystanders != nil {
		now[2], err = m.costs.Bystanders()
	}
	return now, err
}

// End answers a round that has everything but latencies.
func (m *Meter) End() (Round, error) {
	took := time.Since(m.begin)
	now, err := m.read()
	return Round{
		Seconds:       took.Seconds(),
		servers:       now[0].Minus(m.before[0]),
		client:        now[1].Minus(m.before[1]).CPU,
		BystanderCPUs: now[2].Minus(m.before[2]).CPU.Seconds() / took.Seconds(),
	}, err
}
