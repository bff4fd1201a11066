// Package workloads kills leaders at every step of what controllers do, and checks
// every state that the cluster went through on the way: never fewer pods
// available than asked for, never two of one ordinal, each index of a job done
// once, nothing without an owner and nothing left over.
//
// It runs in pretended time (testing/synctest): the real scheduler and controllers, in
// term after term over one state machine, and the pod half of real agents on
// pretended runtimes. How control nodes agree is not tested here, but in
// test/chaos.
//
//	go test ./test/workloads                            the short form
//	go test ./test/workloads -args -seeds 1..50 -every  what make chaos-workloads runs
package workloads

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/controller/daemonset"
	"github.com/musterhq/muster/control/controller/deployment"
	"github.com/musterhq/muster/control/controller/disruption"
	"github.com/musterhq/muster/control/controller/garbage"
	"github.com/musterhq/muster/control/controller/job"
	"github.com/musterhq/muster/control/controller/nodelifecycle"
	"github.com/musterhq/muster/control/controller/podgc"
	"github.com/musterhq/muster/control/controller/replication"
	"github.com/musterhq/muster/control/controller/statefulset"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/scheduler"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
	"github.com/musterhq/muster/proto/agent/fencing"
)

const (
	machines = 4
	// electionMost bounds the time without a leader.
	electionMost = 1500 * time.Millisecond
	// graceOfRest is how long nothing is written before the end counts as reached. It
	// is longer than any pod asks for to end.
	graceOfRest = 2 * time.Minute
)

// Run is one life of a cluster: some users do something while leaders die.
type Run struct {
	Seed uint64
	// Deaths says for each leader how many of its writes succeed before it dies;
	// the one after the last lives.
	Deaths []Death
	// Users are what is done, all at a time; nil: everything.
	Users []User
	// Bug is planted; see bugs.
	Bug string
	// Lossy: machines are lost, and with them what is available. Only what holds all
	// the same is checked: no ordinal twice, and the end.
	Lossy bool
}

// Death is how one leader ends.
type Death struct {
	After  int  // writes
	Effect bool // the write after them is committed, though the leader never hears of it
}

// Outcome is what a run came to.
type Outcome struct {
	Violations []Violation
	Terms      int // leaders, the last included
	Revisions  int
}

// world is a running cluster.
type world struct {
	t    *testing.T
	seed uint64
	bug  string

	began  time.Time
	air    *air
	store  *store.Store
	log    *storetest.Log
	gate   *gate
	client *resource.Registry // writes as users and agents do, through whoever leads

	mu         sync.Mutex
	random     *rand.Rand
	violations []Violation
	terms      int
}

// Do runs it, within a bubble.
func (r Run) Do(t *testing.T) Outcome {
	s, log, _ := storetest.Open(t)
	w := &world{t: t, seed: r.Seed, bug: r.Bug, began: time.Now(), air: newAir(), store: s, log: log, gate: &gate{Log: log}, random: rand.New(rand.NewPCG(r.Seed, 1))}
	w.client = resource.New(s.WithLog(w.gate), resource.AdmitAll{})
	if err := resource.EnsureBootstrap(t.Context(), resource.New(s, resource.AdmitAll{})); err != nil {
		t.Fatal(err)
	}
	history, err := follow(s)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var below, above sync.WaitGroup
	below.Go(func() { history.run(ctx) })
	below.Go(func() { w.reign(ctx, r.Deaths) })
	var agents []*agent
	for i := range machines {
		agents = append(agents, newAgent(w, nodeName(i)))
	}
	for _, a := range agents {
		a.meet(agents)
		below.Go(func() { a.run(ctx) })
	}
	below.Go(func() { w.watchTwins(ctx, agents) })

	users := r.Users
	if users == nil {
		users = Everybody
	}
	for _, u := range users {
		above.Go(func() { u.act(w) })
	}
	above.Wait()
	w.rest()
	cancel()
	below.Wait()
	for _, v := range Check(history.sorted()) {
		if !r.Lossy || v.Promise == nothingLeft || v.Promise == livingOwner {
			w.violated(v)
		}
	}
	return Outcome{Violations: w.violations, Terms: w.terms, Revisions: int(s.Revision())}
}

// rest waits until nothing is written any more.
func (w *world) rest() {
	last, since := w.store.Revision(), time.Now()
	for began := time.Now(); time.Since(since) < graceOfRest; time.Sleep(time.Second) {
		if now := w.store.Revision(); now != last {
			last, since = now, time.Now()
		}
		if time.Since(began) > time.Hour {
			w.violated(Violation{Promise: "the cluster comes to rest", Why: "it still writes after an hour"})
			return
		}
	}
}

func (w *world) violated(v Violation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violations = append(w.violations, v)
}

// upTo is a random time.
func (w *world) upTo(most time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.random.Int64N(int64(most)))
}

func (w *world) shuffled(n int) []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.random.Perm(n)
}

// chance is a random number below n.
func (w *world) chance(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.random.IntN(n)
}

// reign lets one leader follow the other.
func (w *world) reign(ctx context.Context, deaths []Death) {
	for i := 0; ctx.Err() == nil; i++ {
		dying := &mortal{Log: w.log.Term(), left: -1, broken: make(chan struct{})}
		if i < len(deaths) {
			dying.left, dying.effect = deaths[i].After, deaths[i].Effect
		}
		term := controllertest.Resume(w.t, w.store.WithLog(dying))
		w.lead(term)
		w.mu.Lock()
		w.terms++
		w.mu.Unlock()
		w.gate.set(true)
		select {
		case <-dying.broken:
		case <-ctx.Done():
		}
		w.gate.set(false)
		term.End()
		select {
		case <-time.After(w.upTo(electionMost)):
		case <-ctx.Done():
		}
	}
}

// lead runs what a leader runs for workloads.
func (w *world) lead(m *controllertest.Term) {
	duties := []func(context.Context) error{
		scheduler.New(scheduler.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
		replication.NewReplicaSets(replication.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
		deployment.New(deployment.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
		daemonset.New(daemonset.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
		job.New(job.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
		statefulset.New(statefulset.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
		disruption.New(disruption.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger}).Run,
		nodelifecycle.New(nodelifecycle.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Presence: w.air, Logger: m.Logger}).Run,
		podgc.New(podgc.Config{Registry: m.Registry, Caches: m.Caches, Logger: m.Logger}).Run,
		garbage.New(garbage.Config{Registry: m.Registry, Logger: m.Logger}).Run,
	}
	if planted := bugs[w.bug]; planted != nil {
		duties = append(duties, func(ctx context.Context) error { planted(ctx, w, m); return nil })
	}
	m.Run(duties...)
}

var errNoLeader = errors.New("no leader")

// gate is how users and agents write: not at all while nobody leads.
type gate struct {
	*storetest.Log
	mu   sync.Mutex
	open bool
}

func (g *gate) set(open bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = open
}

func (g *gate) isOpen() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open
}

func (g *gate) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	if !g.isOpen() {
		return nil, errNoLeader
	}
	return g.Log.Propose(ctx, cmd)
}

// mortal is the log of a leader that dies at one of its writes.
type mortal struct {
	*storetest.Log
	mu     sync.Mutex
	left   int // writes that succeed; negative: all
	dead   bool
	effect bool
	broken chan struct{}
}

func (f *mortal) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.dead:
		return nil, controllertest.ErrLost
	case f.left == 0:
		f.dead = true
		close(f.broken)
		if f.effect {
			_, _ = f.Log.Propose(ctx, cmd)
		}
		return nil, controllertest.ErrLost
	}
	f.left--
	return f.Log.Propose(ctx, cmd)
}

func nodeName(n int) string { return fmt.Sprintf("n%d", n) }

// node is a machine's object, as its agent registers it.
func node(name string) *corev1.Node {
	n := controllertest.Node(name)
	n.Annotations = map[string]string{fencing.NodeAnnotation: fencing.StopsWithin(fencing.StopAfterDefault).String()}
	return n
}
