// Package chaos runs real control nodes on a network, on disks and by clocks
// that fail, has clients use them all the while, and checks that what the
// clients saw is what a linearizable store may show (package check). All faults
// and all the clients' choices follow from a seed.
//
//	go test ./test/chaos -v -args -seeds 1..20 -time 5m
//
// It needs root for network namespaces.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	"github.com/musterhq/muster/test/chaos/check"
)

const (
	clientCount = 8
	// writableMax is within what writes must succeed once nothing is wrong.
	writableMax = 30 * time.Second
	// healthyMax is within what all nodes must be well again.
	healthyMax = 90 * time.Second
	// decideMax bounds the search for an order, for each group of keys.
	decideMax = 60 * time.Second
)

// Config is one run.
type Config struct {
	Seed uint64
	// Time of faults; starting, healing and checking come on top.
	Time time.Duration
	// Program is package node, built.
	Program string
	// Bug is planted in each node, see package node; "" for none.
	Bug string
	// Only these kinds of faults; empty for all.
	Only []string
	// Dir is where everything is kept: nodes' directories and logs, the history.
	Dir string
	Log *slog.Logger
}

// Result is what came of a run.
type Result struct {
	Violations []check.Violation
	Operations int
	Outcomes   map[check.Outcome]int
	Changes    int
	// Pause is the longest time without an acknowledged write.
	Pause time.Duration
	// Recovery is how long after the last fault a write succeeded.
	Recovery time.Duration
	// Steps were planned; Missed faults of them did not come about.
	Steps, Missed int
	Checking      time.Duration
}

func (r *Result) String() string {
	return fmt.Sprintf("%d steps (%d faults did not come about), %d operations (%d ok, %d failed guards, %d refused, %d unknown), %d changes, longest pause of writes %v, writable %v after healing, checked in %v",
		r.Steps, r.Missed, r.Operations, r.Outcomes[check.OK], r.Outcomes[check.Failed], r.Outcomes[check.Refused], r.Outcomes[check.Unknown],
		r.Changes, r.Pause.Round(10*time.Millisecond), r.Recovery.Round(10*time.Millisecond), r.Checking.Round(10*time.Millisecond))
}

// run is a run under way.
type run struct {
	Config
	began    time.Time
	cluster  *cluster
	keys     *keys
	banks    banks
	log      *check.Log
	watchers []*watcher
	pasts    pasts

	mu         sync.Mutex
	violations []check.Violation
	outcomes   map[check.Outcome]int
	lastWrite  time.Duration
	pauseMax   time.Duration
	end        uint64 // revision at which watches may end
	missed     int    // faults that did not come about
}

func (r *run) now() time.Duration { return time.Since(r.began) }

func (r *run) found(promise, format string, args ...any) {
	v := check.Violation{Promise: promise, Detail: fmt.Sprintf(format, args...)}
	r.Log.Error("violation", "at", r.now().Round(time.Millisecond), "what", v.String())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violations = append(r.violations, v)
}

// broken says whether a violation was found while the run goes on.
func (r *run) broken() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.violations) > 0
}

func (r *run) count(op *check.Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.outcomes[op.Outcome]++
	if op.Commit != nil && op.Outcome == check.OK {
		r.pauseMax = max(r.pauseMax, op.Return-r.lastWrite)
		r.lastWrite = max(r.lastWrite, op.Return)
	}
}

func (r *run) reached(revision uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.end != 0 && revision >= r.end
}

// Run makes a cluster, works it, and judges it. An error says that the run
// could not be made; what a run found is in its result.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	r := &run{Config: cfg, keys: newKeys(), outcomes: map[check.Outcome]int{}, pasts: pasts{since: map[string]uint64{}}}
	const size = 3
	steps := plan(cfg.Seed, cfg.Time, size, cfg.Only)
	fmt.Fprintf(r, "seed %d, %v, bug %q:\n", cfg.Seed, cfg.Time, cfg.Bug)
	for _, s := range steps {
		fmt.Fprintln(r, s)
	}
	var err error
	if r.cluster, err = newCluster(ctx, cfg.Program, cfg.Bug, cfg.Dir, size, cfg.Log); err != nil {
		return nil, err
	}
	defer r.cluster.close()
	r.began = time.Now()
	history, final, err := r.work(ctx, steps)
	if err != nil {
		return nil, err
	}
	r.cluster.close()
	result := &Result{
		Operations: len(history), Outcomes: r.outcomes, Pause: r.pauseMax, Steps: len(steps), Missed: r.missed, Recovery: final.recovery,
	}
	checking := time.Now()
	if err := r.save(history); err != nil {
		return nil, err
	}
	result.Violations = r.judge(history, final)
	result.Checking, result.Changes = time.Since(checking), r.log.Len()
	return result, nil
}

// Write shows the schedule where the log goes, and keeps it.
func (r *run) Write(text []byte) (int, error) {
	fmt.Fprintf(os.Stdout, "%s", text)
	file, err := os.OpenFile(filepath.Join(r.Dir, "schedule.txt"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	return file.Write(text)
}

var _ io.Writer = (*run)(nil)

// final is how a run ended.
type final struct {
	recovery time.Duration
	items    []check.Item
	revision uint64
}

// work is the run between the start of the cluster and the judgement.
func (r *run) work(ctx context.Context, steps []step) ([]*check.Op, *final, error) {
	after, err := r.revision(ctx)
	if err != nil {
		return nil, nil, err
	}
	r.log = check.NewLog(after)
	watching, unwatch := context.WithCancel(ctx)
	defer unwatch()
	watches, err := r.watch(watching, after)
	if err != nil {
		return nil, nil, err
	}
	working, rest := context.WithTimeout(ctx, r.Time)
	defer rest()
	var clients []*client
	var workers errgroup.Group
	for i := range clientCount {
		c, err := r.newClient(i)
		if err != nil {
			return nil, nil, err
		}
		defer c.close()
		clients = append(clients, c)
		workers.Go(func() error { c.Run(working); return nil })
	}
	nemesis := r.nemesis(ctx, steps)
	_ = pause(working, r.Time)
	rest()
	_ = workers.Wait()
	if nemesis != nil {
		return nil, nil, fmt.Errorf("nemesis: %w", nemesis)
	}
	end, err := r.settle(ctx, clients[0])
	if err != nil {
		return nil, nil, err
	}
	r.mu.Lock()
	r.end = end.revision
	r.mu.Unlock()
	done := make(chan struct{})
	go func() { defer close(done); _ = watches.Wait() }()
	select {
	case <-done:
	case <-time.After(healthyMax): // what they have missed is found by Settle
		unwatch()
		<-done
	}
	var history []*check.Op
	for _, c := range clients {
		history = append(history, c.ops...)
	}
	slices.SortStableFunc(history, func(a, b *check.Op) int { return int(a.Call - b.Call) })
	return history, end, nil
}

// watch starts the watches: one of everything on each node, and some that move
// from node to node.
func (r *run) watch(ctx context.Context, after uint64) (*errgroup.Group, error) {
	var group errgroup.Group
	add := func(name, prefix string, at int, hops bool) error {
		w, err := r.newWatcher(name, prefix, at, hops, after)
		if err != nil {
			return err
		}
		r.watchers = append(r.watchers, w)
		group.Go(func() error { w.Run(ctx); return nil })
		return nil
	}
	var errs []error
	for i, n := range r.cluster.nodes {
		errs = append(errs, add("all of "+n.name, "", i, false))
	}
	errs = append(errs, add("moving", "", 0, true), add("moving, of banks", prefix+"b", 1, true), add("moving, of keys", prefix+"k0/", 2, true))
	return &group, errors.Join(errs...)
}

// settle heals everything and reads what is left: after the faults, and once
// more after all nodes were started anew at once.
func (r *run) settle(ctx context.Context, c *client) (*final, error) {
	healed := time.Now()
	end := &final{}
	if err := r.cluster.heal(); err != nil {
		return nil, err
	}
	for attempt := 0; ; attempt++ {
		c.at = attempt % len(c.conns)
		if c.connected(ctx) {
			op := &check.Op{Commit: &check.Commit{Writes: []check.Write{{Key: prefix + "k0/end", Value: c.unique()}}}}
			c.do(op)
			c.ops = append(c.ops, op)
			if op.Outcome == check.OK {
				break
			}
		}
		if time.Since(healed) > writableMax {
			r.found(check.Available, "no write succeeded within %v without faults", writableMax)
			break
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
	end.recovery = time.Since(healed)
	for _, again := range []bool{false, true} {
		if again {
			if r.broken() {
				break // waiting for it once more tells nothing
			}
			for _, n := range r.cluster.nodes {
				n.kill()
			}
			for _, n := range r.cluster.nodes {
				if err := n.start(); err != nil {
					return nil, err
				}
			}
		}
		waiting, cancel := context.WithTimeout(ctx, healthyMax)
		err := r.cluster.awaitHealthy(waiting)
		cancel()
		if err != nil {
			r.found(check.Available, "%v after healing, started again %t: %v", healthyMax, again, err)
			break
		}
		if err := r.replicas(ctx, end); err != nil {
			r.found(check.Replicas, "%v", err)
		}
	}
	for _, n := range r.cluster.nodes {
		op := &check.Op{List: prefix + "k0/"}
		c.at = n.index
		if c.connected(ctx) {
			c.do(op)
			c.ops = append(c.ops, op)
		}
	}
	return end, nil
}

// replicas reads all that each node has and compares it.
func (r *run) replicas(ctx context.Context, end *final) error {
	ctx, cancel := context.WithTimeout(ctx, healthyMax)
	defer cancel()
	for {
		err := r.compare(ctx, end)
		if err == nil {
			return nil
		}
		var differ *differ
		if errors.As(err, &differ) || pause(ctx, 100*time.Millisecond) != nil {
			return err
		}
	}
}

// differ says that two replicas have different items at one revision, which no
// waiting can mend.
type differ struct{ text string }

func (d *differ) Error() string { return d.text }

func (r *run) compare(ctx context.Context, end *final) error {
	var all [][]check.Item
	var at []uint64
	for _, n := range r.cluster.nodes {
		items, revision, err := everything(ctx, clusterv1.NewKVClient(n.conn))
		if err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
		all, at = append(all, items), append(at, revision)
	}
	for i := range all {
		if at[i] != at[0] {
			return fmt.Errorf("%s is at revision %d, %s at %d", r.cluster.nodes[i].name, at[i], r.cluster.nodes[0].name, at[0])
		}
		if !slices.Equal(all[i], all[0]) {
			return &differ{fmt.Sprintf("at revision %d %s and %s differ: %s", at[0], r.cluster.nodes[i].name, r.cluster.nodes[0].name, difference(all[i], all[0]))}
		}
	}
	end.revision, end.items = at[0], nil
	for _, item := range all[0] {
		if strings.HasPrefix(item.Key, prefix) {
			end.items = append(end.items, item)
		}
	}
	return nil
}

// everything is a whole replica as it is, at one revision.
func everything(ctx context.Context, kv clusterv1.KVClient) (all []check.Item, revision uint64, err error) {
	request := &clusterv1.KVListRequest{Local: true}
	for {
		response, err := kv.List(ctx, request)
		if err != nil {
			return nil, 0, err
		}
		if revision != 0 && response.Revision != revision {
			return nil, 0, fmt.Errorf("it changed meanwhile, from %d to %d", revision, response.Revision)
		}
		revision = response.Revision
		all = append(all, items(response.Items)...)
		if !response.More {
			return all, revision, nil
		}
		request.After = []byte(all[len(all)-1].Key)
	}
}

func difference(a, b []check.Item) string {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return fmt.Sprintf("%+v and %+v", a[i], b[i])
		}
	}
	return fmt.Sprintf("%d and %d items", len(a), len(b))
}

// revision is the store's.
func (r *run) revision(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	response, err := clusterv1.NewKVClient(r.cluster.nodes[0].conn).Get(ctx, &clusterv1.KVGetRequest{Key: []byte(prefix)})
	return response.GetRevision(), err
}

func (r *run) save(history []*check.Op) error {
	file, err := os.Create(filepath.Join(r.Dir, "history.jsonl"))
	if err != nil {
		return err
	}
	return errors.Join(check.Save(file, history), file.Close())
}

// judge is every check there is.
func (r *run) judge(history []*check.Op, end *final) []check.Violation {
	violations := r.violations
	for _, ended := range r.cluster.ended {
		violations = append(violations, check.Violation{Promise: check.Alive, Detail: "a node ended by itself: " + ended})
	}
	var watches []*check.Watch
	for _, w := range r.watchers {
		watches = append(watches, w.watch)
	}
	violations = append(violations, r.log.Settle(watches, end.revision)...)
	violations = append(violations, check.CheckLog(r.log, history, prefix)...)
	violations = append(violations, check.CheckFinal(r.log, history, prefix, end.items, end.revision)...)
	violations = append(violations, check.CheckBank(history, prefix+"b", bankAccounts, bankAccounts*bankEach)...)
	return append(violations, check.CheckLinearizable(history, r.log, r.group, decideMax, r.Dir)...)
}
