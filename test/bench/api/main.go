// Command api measures Muster's API server beside kube-apiserver with etcd:
// clusters of one and of three nodes of each on this machine, on loopback, with
// TLS and real fsync, driven by client-go, one cluster at a time. It prints
// tables with ratios and writes every figure as JSON.
//
// Both systems run with their own defaults, and clients are spread over the
// nodes of both. A Muster node is a whole control node with its controllers;
// beside kube-apiserver there are none.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/musterhq/muster/test/bench/measure"
	"github.com/musterhq/muster/test/bench/system"
)

// bench is one run of this program.
type bench struct {
	systems  []system.System
	sizes    []int
	only     []string
	duration time.Duration
	warm     time.Duration
	rounds   int
	pods     int
	dir      string
	profiles string

	report *Report
}

// clientGarbage leaves more of the machine to the servers than Go's default.
const clientGarbage = 400

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	debug.SetGCPercent(clientGarbage)
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "api:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	b := &bench{report: &Report{Began: time.Now().UTC(), Settings: map[string]string{}, Versions: map[string]string{}}}
	var (
		musterProgram = flag.String("muster", "bin/muster", "the muster program")
		apiserver     = flag.String("kube-apiserver", "bin/kube-apiserver", "the kube-apiserver program")
		etcdProgram   = flag.String("etcd", "bin/etcd", "the etcd program")
		systems       = flag.String("systems", "muster,kubernetes", "which to measure")
		nodes         = flag.String("nodes", "1,3", "sizes of the clusters")
		only          = flag.String("only", "", "beginnings of the names of the cases to run, such as create,list/10000 (default: all); --list names them")
		list          = flag.Bool("list", false, "list the cases and end")
		out           = flag.String("json", "bench-api.json", "file for all figures")
		parent        = flag.String("dir", os.TempDir(), "directory for the nodes' data, removed afterwards; its disk is what is measured")
		wait          = flag.Duration("wait", 0, "how long to wait at first for the load average to fall to 1, as after a build")
	)
	flag.DurationVar(&b.duration, "duration", 5*time.Second, "of each case in each round")
	flag.DurationVar(&b.warm, "warm", 500*time.Millisecond, "load before each case that is not counted")
	flag.IntVar(&b.rounds, "rounds", 1, "how often all is measured, with new clusters, the systems taking turns")
	flag.IntVar(&b.pods, "pods", 10_000, "pods that are read and patched; the goals are set for 10,000")
	flag.StringVar(&b.profiles, "profiles", "", "directory for a CPU profile of each case's first node and a heap profile after it; they cost what they show")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("what is %q? there are flags only", flag.Arg(0))
	}
	if *list {
		for _, c := range b.cases() {
			fmt.Println(c.name)
		}
		fmt.Println(familyMemory)
		return nil
	}
	if b.rounds < 1 || b.pods <= fewPods {
		return fmt.Errorf("there must be at least one round, and more than %d pods", fewPods)
	}
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	for size := range strings.SplitSeq(*nodes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil || n < 1 || n > 9 {
			return fmt.Errorf("nodes: %q is not a size from 1 to 9", size)
		}
		b.sizes = append(b.sizes, n)
		b.report.Sizes = append(b.report.Sizes, &Size{Nodes: n})
	}
	for name := range strings.SplitSeq(*systems, ",") {
		switch name {
		case "muster":
			b.systems = append(b.systems, system.Muster{Program: *musterProgram})
		case "kubernetes":
			b.systems = append(b.systems, &system.Kubernetes{APIServer: *apiserver, Etcd: *etcdProgram})
		default:
			return fmt.Errorf("systems: %q is neither muster nor kubernetes", name)
		}
		b.report.Systems = append(b.report.Systems, name)
	}
	flag.VisitAll(func(f *flag.Flag) { b.report.Settings[f.Name] = f.Value.String() })
	var err error
	if b.dir, err = os.MkdirTemp(*parent, "bench-api-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.report.Machine, err = measure.Look(ctx, b.dir, *wait); err != nil {
		return err
	}
	for _, s := range b.systems {
		if b.report.Versions[s.Name()], err = s.Version(); err != nil {
			return fmt.Errorf("%s: %w", s.Name(), err)
		}
	}

	err = b.measure(ctx)
	// What was measured before an error or an interrupt is worth having.
	b.report.Machine.LoadEnd, _ = measure.LoadAverage()
	b.report.Goals = b.report.goals()
	b.report.print(os.Stdout)
	return errors.Join(err, b.report.write(*out))
}

// measure has one cluster at a time, so that nobody stands by and takes of the
// machine. Who comes first changes from round to round.
func (b *bench) measure(ctx context.Context) error {
	systems := slices.Clone(b.systems)
	for range b.rounds {
		for i := range b.sizes {
			for _, s := range systems {
				if err := b.measureSystem(ctx, s, b.report.Sizes[i]); err != nil {
					return fmt.Errorf("%s with %d nodes: %w", s.Name(), b.sizes[i], err)
				}
			}
		}
		slices.Reverse(systems)
	}
	return nil
}

func (b *bench) measureSystem(ctx context.Context, s system.System, size *Size) error {
	if b.wants(familyMemory) {
		m, err := b.memory(ctx, s, size.Nodes)
		if err != nil {
			return fmt.Errorf("%s: %w", familyMemory, err)
		}
		if size.Memory == nil {
			size.Memory = map[string][]Memory{}
		}
		size.Memory[s.Name()] = append(size.Memory[s.Name()], m)
		measure.Progress("%d %s %s: ready after %.0f ms, %.0f MiB idle, %.0f MiB loaded, again after %.0f ms",
			size.Nodes, s.Name(), familyMemory, m.Ready, worst(m.Idle, rss), worst(m.Loaded, rss), m.Restart)
	}
	var chosen []aCase
	reads := false
	for _, c := range b.cases() {
		if b.wants(c.name) {
			chosen = append(chosen, c)
			reads = reads || c.family != familyCreate
		}
	}
	if len(chosen) == 0 {
		return nil
	}
	c, _, err := b.startCluster(ctx, s, size.Nodes)
	if err != nil {
		return err
	}
	defer b.stopCluster(c)
	if reads {
		for _, pods := range []int{fewPods, b.pods} {
			round, err := c.fill(ctx, namespaceOf(pods), pods)
			if err != nil {
				return err
			}
			measure.Progress("%d %s: %d pods, %.0f/s", size.Nodes, s.Name(), pods, round.PerSecond)
		}
	}
	for _, k := range chosen {
		round, err := b.measureCase(ctx, c, k)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		size.add(k, s.Name(), round)
		measure.Progress("%d %s %s: %s/s, p50 %s ms, p99 %s ms, CPU %s µs and %s of the clients", size.Nodes, s.Name(), k.name, measure.Rate(round),
			measure.Figure(round.P50), measure.Figure(round.P99), measure.Figure(round.ServerMicros), measure.Figure(round.ClientMicros))
		if round.Errors > 0 {
			measure.Progress("    %d errors, the first: %s", round.Errors, round.FirstError)
		}
	}
	return nil
}

// settleTime lies between cases, so that the one before is over for the disk, too.
const settleTime = 500 * time.Millisecond

func (b *bench) measureCase(ctx context.Context, c *cluster, k aCase) (measure.Round, error) {
	measure.Sleep(ctx, settleTime)
	profiled := b.profile(ctx, c, k)
	round, err := k.run(ctx, c)
	if err := errors.Join(profiled(), err); err != nil {
		return round, err
	}
	if err := ctx.Err(); err != nil {
		return round, err
	}
	return round, c.Alive()
}

// wants says whether a case was asked for.
func (b *bench) wants(name string) bool {
	return len(b.only) == 0 || slices.ContainsFunc(b.only, func(begin string) bool { return strings.HasPrefix(name, begin) })
}

func (b *bench) startCluster(ctx context.Context, s system.System, nodes int) (*cluster, time.Duration, error) {
	dir, err := os.MkdirTemp(b.dir, s.Name()+"-")
	if err != nil {
		return nil, 0, err
	}
	started, took, err := system.Start(ctx, s, dir, nodes)
	return &cluster{Cluster: started}, took, err
}

// stopCluster frees the disk at once: a long run writes gigabytes.
func (b *bench) stopCluster(c *cluster) {
	c.hangUp()
	c.Kill()
	if err := os.RemoveAll(c.Dir); err != nil {
		measure.Progress("%s is left behind: %v", filepath.Base(c.Dir), err)
	}
}
