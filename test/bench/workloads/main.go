// Command workloads measures how fast Muster's scheduler and controllers turn
// desired state into pods on nodes, beside kube-scheduler and
// kube-controller-manager with kube-apiserver and etcd: on this machine, on
// loopback, with TLS and real fsync, driven by client-go, one cluster at a time.
// It prints tables with ratios and writes every figure as JSON.
//
// Every case has a cluster of its own. What stands behind the compute nodes,
// which are many and pretended, differs: see README.md.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
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
	systems []system.System
	servers []int
	nodes   []int
	pods    int
	// scalePods is how many pods each node has in the end, where that many is what is measured.
	scalePods int
	only      []string
	limit     time.Duration
	rounds    int
	quick     bool
	dir       string
	agentsDir string

	profiles    string
	profileTime time.Duration

	report *Report
}

// clientGarbage leaves more of the machine to the servers than Go's default.
const clientGarbage = 400

// quickly is what --quick stands for.
var quickly = map[string]string{"servers": "1", "pods": "3000", "limit": "30s"}

// podCIDR has room for the pods of 8,192 nodes.
const podCIDR = "10.64.0.0/11"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	debug.SetGCPercent(clientGarbage)
	var err error
	if len(os.Args) > 1 && os.Args[1] == hollowCommand {
		err = runHollow(ctx, os.Args[2:])
	} else {
		err = run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "workloads:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	b := &bench{report: &Report{Began: time.Now().UTC(), Settings: map[string]string{}, Versions: map[string]string{}}}
	var (
		muster      = flag.String("muster", "bin/muster", "the muster program")
		apiserver   = flag.String("kube-apiserver", "bin/kube-apiserver", "the kube-apiserver program")
		scheduler   = flag.String("kube-scheduler", "bin/kube-scheduler", "the kube-scheduler program")
		controllers = flag.String("kube-controller-manager", "bin/kube-controller-manager", "the kube-controller-manager program")
		etcd        = flag.String("etcd", "bin/etcd", "the etcd program")
		systems     = flag.String("systems", "muster,kubernetes", "which to measure")
		servers     = flag.String("servers", "1,3", "numbers of control nodes")
		nodes       = flag.String("nodes", "1000,5000", "numbers of compute nodes")
		only        = flag.String("cases", "", "beginnings of the names of the cases to run, such as basic,affinity (default: all); --list names them")
		list        = flag.Bool("list", false, "list the cases and end")
		out         = flag.String("json", "bench-workloads.json", "file for all figures")
		parent      = flag.String("dir", os.TempDir(), "directory for the nodes' data, removed afterwards; its disk is what is measured")
		agents      = flag.String("agents-dir", memoryDir(), "directory for what Muster's compute nodes keep, removed afterwards: best in memory, as a thousand machines do not share one disk")
		wait        = flag.Duration("wait", 0, "how long to wait at first for the load average to fall to 1, as after a build")
	)
	flag.IntVar(&b.pods, "pods", 10_000, "pods of the largest cases; the goals are set for 10,000")
	flag.IntVar(&b.scalePods, "scale-pods", 20, "pods for each node in the case scale")
	flag.DurationVar(&b.limit, "limit", 2*time.Minute, "a case ends then, and its rate is that of what was done")
	flag.StringVar(&b.profiles, "profiles", "", "directory for a CPU profile of each step's first node and a heap profile after it; they cost what they show")
	flag.DurationVar(&b.profileTime, "profile-time", 5*time.Second, "with --profiles: how long after a step's beginning the processors are watched")
	flag.BoolVar(&b.quick, "quick", false, "a choice of the cases with one control node, 3,000 pods and at most 30 s for each step, unless other flags say otherwise")
	flag.IntVar(&b.rounds, "rounds", 1, "how often all is measured, the systems taking turns")
	flag.Parse()
	if b.quick {
		set := map[string]bool{}
		flag.Visit(func(f *flag.Flag) { set[f.Name] = true })
		for name, value := range quickly {
			if !set[name] {
				_ = flag.Set(name, value)
			}
		}
	}
	if flag.NArg() > 0 {
		return fmt.Errorf("what is %q? there are flags only", flag.Arg(0))
	}
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	var err error
	if b.servers, err = numbers("servers", *servers, 9); err != nil {
		return err
	}
	if b.nodes, err = numbers("nodes", *nodes, 8_000); err != nil {
		return err
	}
	if *list {
		for _, c := range b.cases(b.nodes[0]) {
			fmt.Println(c.name)
		}
		return nil
	}
	if b.rounds < 1 || b.pods < 10 || b.scalePods < 1 {
		return errors.New("there must be at least one round, 10 pods, and one for each node")
	}
	for name := range strings.SplitSeq(*systems, ",") {
		switch name {
		case "muster":
			b.systems = append(b.systems, system.Muster{Program: *muster, PodCIDR: podCIDR})
		case "kubernetes":
			b.systems = append(b.systems, &system.Kubernetes{APIServer: *apiserver, Etcd: *etcd, Scheduler: *scheduler, Controllers: *controllers})
		default:
			return fmt.Errorf("systems: %q is neither muster nor kubernetes", name)
		}
		b.report.Systems = append(b.report.Systems, name)
	}
	flag.VisitAll(func(f *flag.Flag) { b.report.Settings[f.Name] = f.Value.String() })
	if b.dir, err = os.MkdirTemp(*parent, "bench-workloads-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.agentsDir, err = os.MkdirTemp(*agents, "bench-workloads-agents-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.agentsDir)
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

// memoryDir is a directory in memory, if the machine has one.
func memoryDir() string {
	const shared = "/dev/shm"
	if info, err := os.Stat(shared); err == nil && info.IsDir() {
		return shared
	}
	return os.TempDir()
}

func numbers(name, text string, most int) (all []int, err error) {
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 1 || n > most {
			return nil, fmt.Errorf("%s: %q is not a number from 1 to %d", name, part, most)
		}
		all = append(all, n)
	}
	return all, nil
}

// measure has one cluster at a time, so that nobody stands by and takes of the
// machine. Who comes first changes from round to round.
func (b *bench) measure(ctx context.Context) error {
	systems := slices.Clone(b.systems)
	for range b.rounds {
		for _, servers := range b.servers {
			for _, nodes := range b.nodes {
				for _, c := range b.cases(nodes) {
					for _, s := range systems {
						if !b.wants(c.name) || c.ours && s.Name() != "muster" {
							continue
						}
						if err := b.measureCase(ctx, s, servers, c); err != nil {
							return fmt.Errorf("%s: %s, %d control nodes: %w", s.Name(), c, servers, err)
						}
					}
				}
			}
		}
		slices.Reverse(systems)
	}
	return nil
}

func (b *bench) measureCase(ctx context.Context, s system.System, servers int, c aCase) error {
	measure.Progress("%s: %s, %d control nodes", s.Name(), c, servers)
	l, err := b.open(ctx, s, servers, c.name, c.setting)
	if err != nil {
		return err
	}
	defer l.close()
	for _, step := range c.steps {
		l.step = step.name
		result, err := step.run(ctx, l)
		if err := cmp.Or(err, l.alive()); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		b.report.add(servers, c.nodes, step, s.Name(), result)
		measure.Progress("  %s: %s", step.name, result)
		if result.Cut {
			return nil // what follows would find it half done
		}
	}
	return nil
}

// wants says whether a case was asked for.
func (b *bench) wants(name string) bool {
	return len(b.only) == 0 || slices.ContainsFunc(b.only, func(begin string) bool { return strings.HasPrefix(name, begin) })
}
