package consensus

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// ReadBarrier returns once the local state holds all that was committed
// anywhere before the call. Errors: ErrNoLeader, ErrStopped and the context's own.
func (n *Node) ReadBarrier(ctx context.Context) error {
	wait := n.newPatience()
	defer wait.stop()
	for tried := false; ; tried = true {
		to, err := n.awaitRoute(ctx, wait)
		if err != nil {
			return err
		}
		if !tried { // a leader that could not show that it leads is none
			wait.pause()
		}
		index, err := to.readIndex(ctx)
		if err == nil {
			return n.awaitApplied(ctx, index, wait)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := n.pauseBeforeRetry(ctx, to, wait); err != nil {
			return err
		}
	}
}

// awaitApplied waits until index is applied here, impatiently when there is no leader.
func (n *Node) awaitApplied(ctx context.Context, index uint64, wait *patience) error {
	reached := n.progress.reached(index)
	for {
		to, changed := n.route.get()
		if to == nil {
			wait.start()
		} else {
			wait.pause()
		}
		select {
		case <-reached:
			return nil
		case <-changed:
		case <-wait.over():
			return ErrNoLeader
		case <-ctx.Done():
			return ctx.Err()
		case <-n.stopped:
			return ErrStopped
		}
	}
}

// rounds answers read indexes. Callers that arrive while a round is under way
// share the next one, so their number does not matter.
//
// A round reads the commit index, then sends a heartbeat of this term to every
// voter. A quorum that accepts it had, after the callers asked, not moved to a
// later term; so no later leader can have committed anything before they asked.
// raft.VerifyLeader is not used because it also counts answers to heartbeats
// sent before: after a pause of this process those may be older than another
// leader's writes.
type rounds struct {
	mu   sync.Mutex
	next *round
	wake chan struct{} // room for one
}

type round struct {
	done  chan struct{}
	index uint64
	err   error
}

func newRounds() *rounds { return &rounds{wake: make(chan struct{}, 1)} }

func (r *rounds) join(ctx context.Context, lost <-chan struct{}) (uint64, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	mine := r.next
	r.mu.Unlock()
	poke(r.wake)
	select {
	case <-mine.done:
		return mine.index, mine.err
	case <-lost:
		return 0, ErrNotLeader
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (r *rounds) run(ctx context.Context, hold func(context.Context) (uint64, error)) {
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
		runtime.Gosched() // whoever is about to join may do so first
		r.mu.Lock()
		now := r.next
		r.next = nil
		r.mu.Unlock()
		if now == nil {
			continue
		}
		now.index, now.err = hold(ctx)
		close(now.done)
	}
}

// roundTimeout bounds a round. A leader without a quorum steps down earlier.
const roundTimeout = time.Second

// roundPatience is how long those asked first have before all are asked.
const roundPatience = 3 * time.Millisecond

var errNoQuorum = errors.New("no quorum answered")

// readIndexRound is one round of this term.
func (l *leadership) readIndexRound(ctx context.Context) (uint64, error) {
	index := l.node.raft.CommitIndex() // at least this term's first entry
	voters := votersOf(l.node.raft.GetConfiguration().Configuration())
	need := len(voters)/2 + 1
	var asked []*peer
	for _, s := range voters {
		if string(s.ID) == l.node.cfg.Name {
			need--
		} else {
			asked = append(asked, l.peers.get(s))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	number := l.round.Add(1)
	answered := make(chan struct{}, len(asked))
	// As many as are needed are asked, the same ones as long as they answer soon.
	if len(asked) > 0 {
		l.askFirst %= len(asked)
		asked = append(asked[l.askFirst:], asked[:l.askFirst]...)
	}
	first := min(need, len(asked))
	for _, p := range asked[:first] {
		p.heartbeat.offer(number, answered)
	}
	late := time.NewTimer(roundPatience)
	defer late.Stop()
	for need > 0 {
		select {
		case <-answered:
			need--
		case <-late.C:
			l.askFirst += first
			for _, p := range asked[first:] {
				p.heartbeat.offer(number, answered)
			}
		case <-ctx.Done():
			return 0, errNoQuorum
		}
	}
	if !l.current() {
		return 0, ErrNotLeader
	}
	return index, nil
}

func votersOf(c raft.Configuration) []raft.Server {
	var voters []raft.Server
	for _, s := range c.Servers {
		if s.Suffrage == raft.Voter {
			voters = append(voters, s)
		}
	}
	return voters
}

// poke wakes whoever waits on a channel with room for one.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
