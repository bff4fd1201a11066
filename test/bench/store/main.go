// Command store measures Muster's store beside etcd: three nodes of each on
// this machine, on loopback, with real fsync, driven over gRPC by the same
// clients, by turns. It prints a table and writes every figure as JSON.
//
// Both are spoken to through their generated clients, over the same number of
// connections, under mutual TLS 1.3 (--etcd-plain takes it away from etcd).
// Both run with their own default timers. A Muster node is a whole control
// node, with API server and controllers; an etcd node is etcd.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/musterhq/muster/test/bench/measure"
)

// bench is one run of this program.
type bench struct {
	systems     []system
	only        *regexp.Regexp
	duration    time.Duration
	warm        time.Duration
	rounds      int
	trials      int
	watchers    int
	keys        int
	connections int
	memoryPuts  int64
	dir         string
	wait        time.Duration

	report   *Report
	clusters map[string]*cluster // of those that the cases share
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "store:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	b := &bench{clusters: map[string]*cluster{}}
	var (
		musterProgram = flag.String("muster", "bin/muster", "the muster program")
		musterUnary   = flag.Bool("muster-unary", false, "use a gRPC call for each operation on Muster, as for etcd, instead of its client, which shares streams")
		etcdProgram   = flag.String("etcd", "bin/etcd", "the etcd program")
		etcdPlain     = flag.Bool("etcd-plain", false, "spare etcd TLS; Muster always has it")
		systems       = flag.String("systems", "muster,etcd", "which to measure")
		cases         = flag.String("cases", ".", "regular expression: the cases to run; --list names them")
		list          = flag.Bool("list", false, "list the cases and end")
		out           = flag.String("json", "bench-store.json", "file for all figures")
		parent        = flag.String("dir", os.TempDir(), "directory for the nodes' data, removed afterwards; its disk is what is measured")
	)
	flag.DurationVar(&b.duration, "duration", 5*time.Second, "of each round of each case")
	flag.DurationVar(&b.warm, "warm", 500*time.Millisecond, "load before each round that is not counted")
	flag.IntVar(&b.rounds, "rounds", 3, "rounds of each case, the systems taking turns")
	flag.IntVar(&b.trials, "trials", 10, "how often each system's leader is killed")
	flag.IntVar(&b.watchers, "watchers", 100, "watchers in the watch cases")
	flag.IntVar(&b.keys, "keys", 10_000, "keys that are read and written, at random")
	flag.IntVar(&b.connections, "connections", 4, "connections to each node, which the clients share; Muster's client needs one")
	flag.Int64Var(&b.memoryPuts, "memory-puts", 100_000, "puts before memory is read; the goal is set for 1,000,000")
	flag.DurationVar(&b.wait, "wait", 0, "how long to wait at first for the load average to fall to 1, as after a build")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("what is %q? there are flags only", flag.Arg(0))
	}
	if *list {
		for _, c := range b.cases() {
			fmt.Println(c.name)
		}
		fmt.Printf("%s\n%s\n", killCase, memoryCase)
		return nil
	}
	if b.rounds < 1 || b.keys < 1 || b.connections < 1 {
		return errors.New("rounds, keys and connections must be at least 1")
	}
	var err error
	if b.only, err = regexp.Compile(*cases); err != nil {
		return fmt.Errorf("cases: %w", err)
	}
	b.report = &Report{
		Began: time.Now().UTC(), Settings: map[string]string{}, Versions: map[string]string{},
		LeaderKills: map[string]Kills{}, Memory: map[string]Memory{},
	}
	for name := range strings.SplitSeq(*systems, ",") {
		switch name {
		case "muster":
			b.systems = append(b.systems, muster{*musterProgram, *musterUnary})
		case "etcd":
			b.systems = append(b.systems, &etcd{program: *etcdProgram, plain: *etcdPlain})
		default:
			return fmt.Errorf("systems: %q is neither muster nor etcd", name)
		}
		b.report.Systems = append(b.report.Systems, name)
	}
	flag.VisitAll(func(f *flag.Flag) { b.report.Settings[f.Name] = f.Value.String() })
	if b.dir, err = os.MkdirTemp(*parent, "bench-store-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.report.Machine, err = measure.Look(ctx, b.dir, b.wait); err != nil {
		return err
	}
	for _, s := range b.systems {
		if b.report.Versions[s.name()], err = s.version(); err != nil {
			return fmt.Errorf("%s: %w", s.name(), err)
		}
	}

	err = b.measure(ctx)
	for _, c := range b.clusters {
		b.stopCluster(c)
	}
	// What was measured before an error or an interrupt is worth having.
	b.report.Machine.LoadEnd, _ = measure.LoadAverage()
	b.report.Goals = b.report.goals()
	b.report.print(os.Stdout)
	return errors.Join(err, b.report.write(*out))
}

// aCase is a kind of load on clusters that run already.
type aCase struct {
	name string
	run  func(ctx context.Context, c *cluster, clients []client, other *cluster) (measure.Round, error)
}

const (
	killCase   = "kill"
	memoryCase = "memory"
)

func (b *bench) cases() (all []aCase) {
	steady := func(name string, workers, size int, do func(context.Context, *worker) error) {
		l := load{workers: workers, keys: b.keys, size: size, warm: b.warm, duration: b.duration, do: do}
		all = append(all, aCase{name, l.run})
	}
	for _, size := range []int{256, 1024} {
		for _, n := range []int{1, 64, 256} {
			steady(fmt.Sprintf("put/%dB/%d", size, n), n, size, func(ctx context.Context, w *worker) error { return w.putTo(ctx, writePrefix) })
		}
	}
	for _, kind := range []string{"linearizable", "local"} {
		for _, n := range []int{1, 64, 256} {
			steady(fmt.Sprintf("get/%s/%d", kind, n), n, valueBytes, func(ctx context.Context, w *worker) error {
				return w.getFrom(ctx, readPrefix, kind == "local")
			})
		}
	}
	steady(fmt.Sprintf("mixed/90-10/%d", loadClients), loadClients, valueBytes, func(ctx context.Context, w *worker) error {
		if w.random.IntN(10) == 0 {
			return w.putTo(ctx, readPrefix)
		}
		return w.getFrom(ctx, readPrefix, false)
	})
	paced := fanOut{watchers: b.watchers, writers: 1, pace: time.Second / pacedPuts, duration: b.duration, keys: b.keys}
	saturated := fanOut{watchers: b.watchers, writers: saturatingPuts, duration: b.duration, keys: b.keys}
	return append(all, aCase{fmt.Sprintf("watch/paced/%d", b.watchers), paced.run}, aCase{fmt.Sprintf("watch/saturated/%d", b.watchers), saturated.run})
}

func (b *bench) measure(ctx context.Context) error {
	var chosen []aCase
	for _, c := range b.cases() {
		if b.only.MatchString(c.name) {
			chosen = append(chosen, c)
		}
	}
	kill := b.only.MatchString(killCase)
	if len(chosen) > 0 || kill {
		for _, s := range b.systems {
			c, err := b.startCluster(ctx, s)
			if err != nil {
				return err
			}
			b.clusters[s.name()] = c
		}
	}
	if len(chosen) > 0 {
		if err := b.fill(ctx); err != nil {
			return err
		}
	}
	for _, c := range chosen {
		if err := b.takeTurns(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	if kill {
		if err := b.killLeaders(ctx); err != nil {
			return fmt.Errorf("%s: %w", killCase, err)
		}
	}
	for name, c := range b.clusters {
		b.stopCluster(c)
		delete(b.clusters, name)
	}
	if b.only.MatchString(memoryCase) {
		for _, s := range b.systems {
			m, err := b.memory(ctx, s)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", memoryCase, s.name(), err)
			}
			b.report.Memory[s.name()] = m
			measure.Progress("%s %s: %.0f MiB idle, %.0f MiB after %d puts", memoryCase, s.name(), worst(m.Idle), worst(m.Loaded), m.Puts)
		}
	}
	return nil
}

func (b *bench) startCluster(ctx context.Context, s system) (*cluster, error) {
	dir, err := os.MkdirTemp(b.dir, s.name()+"-")
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	c, err := startCluster(ctx, s, dir, b.connections)
	if err != nil {
		return nil, err
	}
	measure.Progress("%s: three nodes after %s", s.name(), time.Since(begin).Round(time.Millisecond))
	return c, nil
}

// stopCluster frees the disk at once: a long run writes gigabytes.
func (b *bench) stopCluster(c *cluster) {
	c.stop()
	if err := os.RemoveAll(c.dir); err != nil {
		measure.Progress("%s is left behind: %v", filepath.Base(c.dir), err)
	}
}

// other is the cluster that is idle while c works, if there is one.
func (b *bench) other(c *cluster) *cluster {
	for _, o := range b.clusters {
		if o != c {
			return o
		}
	}
	return nil
}

// fill writes every key that is going to be read.
func (b *bench) fill(ctx context.Context) error {
	for _, s := range b.systems {
		c := b.clusters[s.name()]
		clients, err := c.leaderFirst(ctx)
		if err != nil {
			return err
		}
		var next atomic.Int64
		round, err := load{
			workers: loadClients, keys: b.keys, size: valueBytes, count: int64(b.keys),
			do: func(ctx context.Context, w *worker) error {
				return w.put(ctx, keyAt(readPrefix, int(next.Add(1)-1)), w.value)
			},
		}.run(ctx, c, clients, nil)
		if err != nil {
			return err
		}
		if round.Errors > 0 {
			return fmt.Errorf("%s: %d of %d puts failed: %s", s.name(), round.Errors, b.keys, round.FirstError)
		}
	}
	return nil
}

// settleTime lies between rounds, so that the one before is over for the disk, too.
const settleTime = 500 * time.Millisecond

func (b *bench) takeTurns(ctx context.Context, k aCase) error {
	b.report.Cases = append(b.report.Cases, CaseResult{Name: k.name, Rounds: map[string][]measure.Round{}, Median: map[string]measure.Round{}})
	result := &b.report.Cases[len(b.report.Cases)-1]
	for number := range b.rounds {
		for _, s := range b.systems {
			c := b.clusters[s.name()]
			measure.Sleep(ctx, settleTime)
			before, err := c.leader(ctx)
			if err != nil {
				return err
			}
			clients, err := c.leaderFirst(ctx)
			if err != nil {
				return err
			}
			round, err := k.run(ctx, c, clients, b.other(c))
			if err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			for _, n := range c.nodes {
				if err := n.Alive(); err != nil {
					return err
				}
			}
			after, err := c.leader(ctx)
			round.LeaderChanged = err != nil || after != before
			result.Rounds[s.name()] = append(result.Rounds[s.name()], round)
			result.Median[s.name()] = measure.MedianRound(result.Rounds[s.name()])
			measure.Progress("%s %d %s: %.0f/s, p50 %s ms, p99 %s ms", k.name, number+1, s.name(), round.PerSecond, measure.Figure(round.P50), measure.Figure(round.P99))
			if round.Errors > 0 {
				measure.Progress("    %d errors, the first: %s", round.Errors, round.FirstError)
			}
		}
	}
	return nil
}

func (b *bench) killLeaders(ctx context.Context) error {
	for number := range b.trials {
		for _, s := range b.systems {
			took, err := killLeader(ctx, b.clusters[s.name()])
			if err != nil {
				return fmt.Errorf("%s: %w", s.name(), err)
			}
			b.report.LeaderKills[s.name()] = b.report.LeaderKills[s.name()].with(took)
			measure.Progress("%s %d %s: %.0f ms", killCase, number+1, s.name(), measure.Milliseconds(took))
		}
	}
	return nil
}
