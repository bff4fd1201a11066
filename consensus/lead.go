package consensus

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/consensus/forward"
)

// leadership is one term in which this node leads, from the moment its first
// entry is applied here: everything committed before is then applied too, and
// the commit index is of this term.
type leadership struct {
	node     *Node
	number   uint64
	ctx      context.Context
	proposer *proposer
	rounds   *rounds
	round    atomic.Uint64
	askFirst int // of the rounds: which voter to ask first
	room     followersRoom
	peers    *peers
}

var (
	_ route          = (*leadership)(nil)
	_ forward.Leader = (*leadership)(nil)
)

// trackLeadership follows raft's word on whether this node leads. It takes each
// word at once: raft waits for that.
func (n *Node) trackLeadership(ctx context.Context) {
	for {
		select {
		case leading := <-n.leading:
			if leading {
				n.lead(ctx)
			}
		case <-ctx.Done():
			return
		}
	}
}

// lead is one term, until raft says that it is over. While the disk hangs raft
// says nothing: then the term is over here, and begins anew if raft still leads
// afterwards.
func (n *Node) lead(ctx context.Context) {
	for n.leadWhileWell(ctx) {
		select {
		case <-n.untilHung(false):
		case <-n.leading:
			return
		case <-ctx.Done():
			return
		}
	}
}

// leadWhileWell says again when the disk has hung and raft has not said that the
// term is over, so that this node leads for as long as the others believe it.
func (n *Node) leadWhileWell(ctx context.Context) (again bool) {
	serving, end := context.WithCancel(ctx)
	defer end()
	over := make(chan struct{})
	if !n.entries.start(func() {
		defer close(over)
		n.serveTerm(serving)
	}) {
		return false
	}
	select {
	case <-n.untilHung(true):
		end()
		if l, _ := n.term.get(); l != nil { // its proposer may be held by raft
			n.term.clear(l)
			n.route.clear(l)
		}
		select {
		case <-over:
			return true
		case <-n.leading:
			<-over
		case <-ctx.Done():
		}
	case <-n.leading: // raft's words alternate
		end()
		<-over
	case <-ctx.Done(): // stopping, maybe because raft hangs: close waits, but not for ever
	}
	return false
}

// serveTerm opens the term and serves until ctx ends.
func (n *Node) serveTerm(ctx context.Context) {
	begin := time.Now()
	number, err := n.openTerm(ctx)
	if err != nil {
		return
	}
	l := &leadership{node: n, number: number, ctx: ctx, rounds: newRounds()}
	l.peers = &peers{l: l, of: map[peerKey]*peer{}}
	l.proposer = newProposer(number, n.apply, l.notify, n.metrics, &n.entries)
	n.silence.reset()
	l.judgeRoom(ctx)
	n.route.set(l)
	n.term.set(l)
	n.calm()
	n.log.Info("leadership won", "term", number, "took", time.Since(begin).Round(time.Millisecond))
	defer n.log.Info("leadership ended", "term", number)

	n.background.start(func() { l.rounds.run(ctx, l.readIndexRound) })
	n.background.start(func() { l.pulse(ctx) })
	l.proposer.run(ctx)
	n.term.clear(l)
	n.route.clear(l)
	n.calm()
}

// openTerm commits an empty envelope. Unlike raft's own first entry it reaches
// the state machine, so all nodes see the term begin, and this node knows that
// everything before is applied.
func (n *Node) openTerm(ctx context.Context) (uint64, error) {
	for {
		future := n.apply(envelope{}.encode())
		err := future.Error()
		if err == nil {
			o := future.Response().(outcome)
			return o.term, o.failed
		}
		if errors.Is(err, raft.ErrRaftShutdown) {
			return 0, err
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func (n *Node) apply(data []byte) raft.ApplyFuture { return n.raft.Apply(data, 0) }

func (l *leadership) term() uint64          { return l.number }
func (l *leadership) lost() <-chan struct{} { return l.ctx.Done() }

func (l *leadership) submit(it *proposal) error {
	return l.Propose(l.node.origin, it.sequence, it.command, func(err error) {
		l.node.pending.refuse(it.sequence, l, err)
	})
}

func (l *leadership) readIndex(ctx context.Context) (uint64, error) {
	return l.rounds.join(ctx, l.ctx.Done())
}

// vouched answers a read index without asking anybody, if this node and the
// voucher are a quorum. Both were in this term after the callers asked, which
// is all that a round finds out.
func (l *leadership) vouched(voucher string) (index uint64, ok bool) {
	index = l.node.raft.CommitIndex() // at least this term's first entry
	voters := votersOf(l.node.raft.GetConfiguration().Configuration())
	need := len(voters)/2 + 1
	for _, s := range voters {
		if string(s.ID) == l.node.cfg.Name || string(s.ID) == voucher {
			need--
		}
	}
	return index, need <= 0 && l.current()
}

// current says whether this node still is in its term. That is looked at after
// the callers asked: raft says that a term is over a moment after this node has
// helped to elect another leader.
func (l *leadership) current() bool { return l.node.raft.CurrentTerm() == l.number }

// Term, Done, Propose and ReadIndex serve the followers.

func (l *leadership) Term() uint64          { return l.number }
func (l *leadership) Done() <-chan struct{} { return l.ctx.Done() }

func (l *leadership) Propose(origin, sequence uint64, data []byte, refuse func(error)) error {
	if err := l.refuses(); err != nil {
		return err
	}
	return l.proposer.submit(submission{command{origin, sequence, data}, refuse})
}

func (l *leadership) ReadIndex(ctx context.Context, voucher string) (uint64, error) {
	if voucher != "" {
		if index, ok := l.vouched(voucher); ok {
			return index, nil
		}
	}
	return l.readIndex(ctx)
}

// Term is one time of leading, as duties see it.
type Term struct{ l *leadership }

// Number is raft's number of this term.
func (t *Term) Number() uint64 { return t.l.number }

// Propose is Node.Propose, except that the command counts in this term only.
// After it: ErrNotLeader, nothing was applied; or ErrOutcomeUnknown.
func (t *Term) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	l, n := t.l, t.l.node
	if len(cmd) > CommandBytesMax {
		return nil, ErrTooLarge
	}
	it := n.pending.add(cmd)
	defer n.pending.remove(it)
	n.pending.sendBy(it, l)
	if err := l.submit(it); err != nil {
		return nil, err
	}
	var err error
	select {
	case a := <-it.answered:
		return a.data, a.err
	case err = <-it.refused:
	case <-l.lost():
		err = errLost
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
	}
	if !errors.Is(err, errLost) {
		return nil, err
	}
	wait := n.newPatience()
	defer wait.stop()
	a, decided, err := n.fate(ctx, it, l.number, wait)
	if err != nil {
		return nil, err
	}
	if !decided {
		return nil, ErrNotLeader
	}
	return a.data, a.err
}

// ReadBarrier makes sure that all this leader has committed is applied here.
func (t *Term) ReadBarrier(ctx context.Context) error {
	n := t.l.node
	select {
	case <-n.progress.reached(n.raft.CommitIndex()):
		if t.l.ctx.Err() == nil {
			return nil
		}
		return ErrNotLeader
	case <-t.l.lost():
		return ErrNotLeader
	case <-ctx.Done():
		return ctx.Err()
	}
}
