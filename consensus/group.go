package consensus

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// What a leader holds of commands that are not yet in an entry. At the
	// bound it answers ErrBusy.
	queueCommandsMax = 8192
	queueBytesMax    = 64 << 20
	// Entries that are on their way at once. A further one goes only when so many
	// commands or bytes wait for it: while the disks keep up, one entry at a time
	// makes the largest groups and costs least (DESIGN.md has the figures); behind
	// a slow disk or a long way, several are under way.
	entriesInFlightMax = 4
	furtherCommandsMin = 64
	furtherBytesMin    = 256 << 10
)

// submission is a command in the leader's queue. refuse is called at most once,
// must not block, and is not called for a command that is applied.
type submission struct {
	command
	refuse func(error)
}

// proposer joins the commands of one term into few log entries: while entries
// are on their way, what arrives waits and goes into the next one together.
type proposer struct {
	term  uint64
	apply func(data []byte) raft.ApplyFuture
	// committed is called after each entry was applied here. more: another one is
	// on its way already, or about to be.
	committed func(o outcome, more bool)
	metrics   *metrics

	inFlight atomic.Int64  // entries on their way
	changed  chan struct{} // room for one: an entry has ended, or enough wait for a further one
	tasks    *tasks        // of the node: those who wait for raft's answers

	mu     sync.RWMutex
	over   bool
	queue  chan submission
	queued atomic.Int64 // bytes
}

func newProposer(term uint64, apply func([]byte) raft.ApplyFuture, committed func(outcome, bool), m *metrics, t *tasks) *proposer {
	return &proposer{
		term: term, apply: apply, committed: committed, metrics: m, tasks: t,
		changed: make(chan struct{}, 1),
		queue:   make(chan submission, queueCommandsMax),
	}
}

func (p *proposer) submit(s submission) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.over {
		return ErrNotLeader
	}
	size := int64(s.size())
	if p.queued.Add(size) > queueBytesMax {
		p.queued.Add(-size)
		return ErrBusy
	}
	select {
	case p.queue <- s:
		if p.inFlight.Load() > 0 && p.enough() {
			poke(p.changed)
		}
		return nil
	default:
		p.queued.Add(-size)
		return ErrBusy
	}
}

// run proposes until ctx ends with the term, and then refuses what is left.
func (p *proposer) run(ctx context.Context) {
	defer func() {
		p.mu.Lock()
		p.over = true
		p.mu.Unlock()
		for {
			select {
			case s := <-p.queue:
				s.refuse(ErrNotLeader)
			default:
				return
			}
		}
	}()
	var held *submission // did not fit into the last group
	defer func() {
		if held != nil {
			held.refuse(ErrNotLeader)
		}
	}()
	for {
		var group []submission
		if held != nil {
			group, held = append(group, *held), nil
		} else {
			select {
			case s := <-p.queue:
				group = append(group, s)
			case <-ctx.Done():
				return
			}
		}
		if !p.awaitTurn(ctx) {
			group[0].refuse(ErrNotLeader)
			return
		}
		runtime.Gosched() // whoever is about to submit may do so first
		group, held = p.fill(group)
		p.send(group)
	}
}

// awaitTurn waits until the next entry may go, or answers false when ctx has ended.
func (p *proposer) awaitTurn(ctx context.Context) bool {
	for {
		switch n := p.inFlight.Load(); {
		case n == 0, n < entriesInFlightMax && p.enough():
			p.inFlight.Add(1)
			return true
		}
		select {
		case <-p.changed:
		case <-ctx.Done():
			return false
		}
	}
}

// enough says whether what waits is worth an entry of its own beside others.
func (p *proposer) enough() bool {
	return len(p.queue) >= furtherCommandsMin || p.queued.Load() >= furtherBytesMin
}

// ended is called when an entry is on its way no longer.
func (p *proposer) ended() {
	p.inFlight.Add(-1)
	poke(p.changed)
}

// fill adds what waits in the queue, within the bounds of an envelope.
func (p *proposer) fill(group []submission) ([]submission, *submission) {
	bytes := group[0].size()
	for len(group) < envelopeCommandsMax {
		select {
		case s := <-p.queue:
			if bytes += s.size(); bytes > envelopeBytesMax {
				return group, &s
			}
			group = append(group, s)
		default:
			return group, nil
		}
	}
	return group, nil
}

// send makes the group one entry. Raft takes it when its last write is done,
// so this waits about as long as the disk does.
func (p *proposer) send(group []submission) {
	e := envelope{term: p.term, commands: make([]command, len(group))}
	var bytes int64
	for i, s := range group {
		e.commands[i] = s.command
		bytes += int64(s.size())
	}
	p.queued.Add(-bytes)
	accepted := make(chan raft.ApplyFuture, 1)
	waiting := p.tasks.start(func() {
		begin := time.Now()
		err := p.settle(<-accepted)
		p.metrics.committed(begin)
		p.ended()
		if err != nil {
			refuseAll(group, err)
		}
	})
	if !waiting { // the node is stopping
		p.ended()
		refuseAll(group, ErrNotLeader)
		return
	}
	p.metrics.entry(len(group))
	accepted <- p.apply(e.encode())
}

func refuseAll(group []submission, err error) {
	for _, s := range group {
		s.refuse(err)
	}
}

// settle waits for an entry's end: nil when it was applied.
func (p *proposer) settle(future raft.ApplyFuture) error {
	switch err := future.Error(); {
	case err == nil:
		o := future.Response().(outcome)
		if o.failed != nil {
			return errLost
		}
		p.committed(o, p.inFlight.Load() > 1 || len(p.queue) > 0)
		if o.late {
			return ErrNotLeader
		}
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return ErrNotLeader // refused before it reached the log
	default:
		return errLost
	}
}
