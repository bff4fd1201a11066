package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/musterhq/muster/consensus/forward"
)

// A route is a way to the leader: this node's own leadership, or the stream to
// another node's. It has one term and is replaced, never reused.
type route interface {
	// submit hands a command to the leader. It answers ErrBusy or ErrNotLeader
	// at once, or later through pending.refuse; both mean that it will not be applied.
	submit(it *proposal) error
	readIndex(ctx context.Context) (uint64, error)
	term() uint64
	// lost is closed when the route leads nowhere any more.
	lost() <-chan struct{}
}

// errLost is a refusal that does not know: the command may be in the log.
var errLost = forward.ErrLost

// retryPause is waited before a route that refused is tried again.
const retryPause = 10 * time.Millisecond

// Propose has cmd applied on every node and returns the state machine's answer
// once it is applied here, so the caller reads its own write. Any node takes
// it; concurrent calls share log entries. The bytes of cmd must not change any
// more, not even after an error. Errors: ErrNoLeader, ErrBusy, ErrNoSpace,
// ErrTooLarge, ErrStopped and the context's own (nothing was applied),
// ErrOutcomeUnknown.
//
// A leader change in between costs the caller time only: the command is sent
// again once it is certain that the old leader's log does not have it. That is
// so when an entry of a later term has been applied here and the command has
// not: log terms never go down, and a command counts only in the term it was
// sent in.
func (n *Node) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	if len(cmd) > CommandBytesMax {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, len(cmd), CommandBytesMax)
	}
	it := n.pending.add(cmd)
	defer n.pending.remove(it)
	wait := n.newPatience()
	defer wait.stop()
	for {
		to, err := n.awaitRoute(ctx, wait)
		if err != nil {
			return nil, err
		}
		n.pending.sendBy(it, to)
		if err := to.submit(it); err == nil {
			wait.pause()
			select {
			case a := <-it.answered:
				return a.data, a.err
			case err = <-it.refused:
			case <-to.lost():
				err = errLost
			case <-ctx.Done():
				return nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
			case <-n.stopped:
				return nil, ErrOutcomeUnknown
			}
			if errors.Is(err, errLost) {
				if a, decided, err := n.fate(ctx, it, to.term(), wait); decided || err != nil {
					return a.data, errors.Join(a.err, err)
				}
				continue
			}
			if errors.Is(err, ErrBusy) || errors.Is(err, ErrNoSpace) {
				return nil, err
			}
		} else if errors.Is(err, ErrBusy) || errors.Is(err, ErrNoSpace) {
			return nil, err
		}
		if err := n.pauseBeforeRetry(ctx, to, wait); err != nil {
			return nil, err
		}
	}
}

// fate waits until it is known whether a command that was handed to the leader
// of a term is in the log: then it has its answer, or decided is false and it
// can be sent again.
func (n *Node) fate(ctx context.Context, it *proposal, term uint64, wait *patience) (a answer, decided bool, err error) {
	wait.start()
	for {
		over, next := n.progress.termAfter(term)
		if over {
			select { // answers come before the term does
			case a := <-it.answered:
				return a, true, nil
			default:
				return answer{}, false, nil
			}
		}
		select {
		case a := <-it.answered:
			return a, true, nil
		case err := <-it.refused: // its last word
			if !errors.Is(err, errLost) {
				return answer{}, false, nil
			}
		case <-next:
		case <-wait.over():
			return answer{}, false, ErrOutcomeUnknown
		case <-ctx.Done():
			return answer{}, false, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ctx.Err())
		case <-n.stopped:
			return answer{}, false, ErrOutcomeUnknown
		}
	}
}

// awaitRoute waits for a leader. Its errors mean that nothing was handed to one.
func (n *Node) awaitRoute(ctx context.Context, wait *patience) (route, error) {
	for {
		to, changed := n.route.get()
		if to != nil {
			return to, nil
		}
		wait.start()
		select {
		case <-changed:
		case <-wait.over():
			return nil, ErrNoLeader
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-n.stopped:
			return nil, ErrStopped
		}
	}
}

// pauseBeforeRetry waits a moment, or until there is another route.
func (n *Node) pauseBeforeRetry(ctx context.Context, refused route, wait *patience) error {
	wait.start()
	now, changed := n.route.get()
	if now != refused {
		return nil
	}
	pause := time.NewTimer(retryPause)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-changed:
	case <-wait.over():
		return ErrNoLeader
	case <-ctx.Done():
		return ctx.Err()
	case <-n.stopped:
		return ErrStopped
	}
	return nil
}

// patience is how much longer a caller waits for a leader. It runs out only
// while there is none.
type patience struct {
	left  time.Duration
	since time.Time
	timer *time.Timer
}

func (n *Node) newPatience() *patience { return &patience{left: n.cfg.LeaderWait} }

func (p *patience) start() {
	if p.timer == nil {
		p.since, p.timer = time.Now(), time.NewTimer(p.left)
	}
}

func (p *patience) pause() {
	if p.timer != nil {
		p.timer.Stop()
		p.left, p.timer = max(0, p.left-time.Since(p.since)), nil
	}
}

func (p *patience) stop() { p.pause() }

// over is ready when patience has run out; never while it is paused.
func (p *patience) over() <-chan time.Time {
	if p.timer == nil {
		return nil
	}
	return p.timer.C
}
