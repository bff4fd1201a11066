// Package fence decides whether pods that must not run twice may go on here. They
// may while the control plane is certain, and while so many other agents lack it
// as well that no leader can have given this node up (package fencing). Stopping
// pods is package pod's business, and carrying the questions gossip's.
package fence

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/proto/agent/fencing"
)

// State is whether guarded pods may go on.
type State int

const (
	Undecided State = iota // the agent has just started: leave them as they are
	Going
	Stopped
)

const (
	// lookAgain is the least time between two looks.
	lookAgain = 10 * time.Millisecond
	// askEvery is between two rounds of questions, which begin askAfter after the
	// last certainty: early enough for an answer before StopAfter is over.
	askEvery = 2 * time.Second
	askAfter = fencing.LackingAfter
	// decideWithin is how long a starting agent waits for answers, which come with
	// the second heartbeat, before it stops what it finds running.
	decideWithin = 2500 * time.Millisecond
	// keepEvery is how often the last certainty is written down.
	keepEvery = 2 * time.Second

	forEver = 100 * 365 * 24 * time.Hour
)

// Config is what a Fence needs.
type Config struct {
	Name string // this node's
	// File keeps what must outlive the agent; "" where no pod does.
	File string
	// StopAfter is how long guarded pods go on without certainty, 0 for the
	// default, negative for ever: then nothing is promised from the first certainty
	// on, which is when the control plane hears of it.
	StopAfter time.Duration
	// Clock counts on while the machine is suspended; nil for the machine's own.
	Clock  func() time.Duration
	Logger *slog.Logger
}

// Fence is this agent's side of the bargain.
type Fence struct {
	cfg     Config
	log     *slog.Logger
	promise time.Duration
	boot    string // which start of the machine this is

	mu      sync.Mutex
	state   State
	changed func(State)
	wake    chan struct{} // room for one

	began   time.Duration
	heard   time.Duration // a control node with a quorum; never: minus an hour
	until   time.Duration // guarded pods may go on until then
	peers   peers
	round   round
	asked   time.Duration
	send    func(address, name string, message []byte) error
	locate  func(name string) (address string, ok bool)
	address string
}

// New reads what the last run has left. Begin is called before Run.
func New(cfg Config) (*Fence, error) {
	promise := fencing.StopsWithin(cmp.Or(cfg.StopAfter, fencing.StopAfterDefault))
	switch {
	case cfg.StopAfter == 0:
		cfg.StopAfter = fencing.StopAfterDefault
	case cfg.StopAfter < 0:
		cfg.StopAfter, promise = forEver, 0
	case cfg.StopAfter <= askAfter+askEvery:
		return nil, fmt.Errorf("stop-after: %v is too short: the other nodes are to be asked before, want more than %v", cfg.StopAfter, askAfter+askEvery)
	}
	if cfg.Clock == nil {
		cfg.Clock = sinceBoot
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Fence{cfg: cfg, log: cfg.Logger, promise: promise, boot: bootID(), wake: make(chan struct{}, 1), changed: func(State) {}}
	f.began = cfg.Clock()
	f.heard, f.asked = f.began-time.Hour, f.began-time.Hour
	f.until = f.began - time.Hour
	kept, err := load(cfg.File)
	if err != nil {
		return nil, err
	}
	f.peers = kept.Peers
	if kept.Boot == f.boot {
		f.until = time.Duration(kept.Until)
	}
	return f, nil
}

// sinceBoot is the machine's clock that nobody sets and no suspension stops.
func sinceBoot() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(err) // Linux has had it since 2.6.39
	}
	return time.Duration(now.Nano())
}

// Promise is within what time guarded pods are stopped; 0 for never.
func (f *Fence) Promise() time.Duration { return f.promise }

// OnChange has changed called with each new state, from one goroutine at a time.
// It must not block. It is called before Run.
func (f *Fence) OnChange(changed func(State)) { f.changed = changed }

// Through says how other agents are reached. It is called before Run; without it
// this node hears no others.
func (f *Fence) Through(address string, send func(address, name string, message []byte) error, locate func(name string) (string, bool)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.address, f.send, f.locate = address, send, locate
}

// State is the present one.
func (f *Fence) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// Clock is what the control plane is to echo.
func (f *Fence) Clock() int64 { return int64(f.cfg.Clock()) }

// Heard notes that a control node that has a quorum is heard.
func (f *Fence) Heard() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heard = f.cfg.Clock()
}

// Certain notes that such a node, which has told all pods, had heard this agent
// when its clock said so.
func (f *Fence) Certain(clock int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mayGoOn(time.Duration(clock) + f.cfg.StopAfter)
}

// mayGoOn is called with mu held.
func (f *Fence) mayGoOn(until time.Duration) {
	if now := f.cfg.Clock(); until > now+f.cfg.StopAfter {
		return // no clock of ours has said that
	}
	f.until = max(f.until, until)
	if f.state != Going {
		f.nudge()
	}
}

func (f *Fence) nudge() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Run decides again and again until ctx ends.
func (f *Fence) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	keep := keeper{file: f.cfg.File}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-f.wake:
		}
		again := f.look()
		if now := f.cfg.Clock(); keep.due(now) {
			if err := keep.save(f.kept(), now); err != nil {
				f.log.Warn("could not keep when the control plane was last certain", "err", err)
			}
		}
		if f.cfg.File != "" {
			again = min(again, keepEvery)
		}
		timer.Reset(again)
	}
}

// look decides once, asks the others if need be, and answers when to look again.
func (f *Fence) look() (again time.Duration) {
	f.mu.Lock()
	now := f.cfg.Clock()
	before := f.state
	switch {
	case now < f.until:
		f.state = Going
	case before == Undecided && now < f.began+decideWithin:
	default:
		f.state = Stopped
	}
	state := f.state
	next := now + forEver
	switch state {
	case Going:
		next = f.until
	case Undecided:
		next = f.began + decideWithin
	}
	askAt := max(f.until-f.cfg.StopAfter+askAfter, f.asked+askEvery)
	var question []peer
	var number uint64
	if now >= askAt {
		question, number = f.begin(now)
		askAt = now + askEvery
	}
	f.mu.Unlock()
	if state != before {
		switch {
		case state == Stopped:
			f.log.Warn("the control plane is not certain, nor that it is gone: pods that must not run twice are stopped")
		case before == Stopped:
			f.log.Info("pods that must not run twice may run again")
		}
		f.changed(state)
	}
	for _, p := range question {
		if p.Address != "" {
			f.say(p, message{Ask: number})
		}
	}
	return max(min(next, askAt)-now, lookAgain)
}

// shuffled draws at most n of all.
func shuffled[T any](all []T, n int) []T {
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(n, len(all))]
}
