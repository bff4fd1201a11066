package consensus

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// A duty that fails again within failuresForget makes this node wait
	// longer each time before it resigns or tries again, up to restartPauseMax.
	restartPause    = 250 * time.Millisecond
	restartPauseMax = 5 * time.Second
	failuresForget  = time.Minute
	resignMax       = 2 * time.Second
)

// WhileLeader runs the duties whenever this node leads, until ctx ends; then it
// returns nil. A term's duties start together, after all that was committed
// before is applied here, and their context ends when leadership is lost. Runs
// never overlap: the next waits until every duty of the last has returned.
//
// A duty that fails makes the node stop them all and hand leadership to another
// node. Where there is none, or it fails, they are started again after a pause.
func (n *Node) WhileLeader(ctx context.Context, duties ...Duty) error {
	failures, lastFailure := 0, time.Time{}
	for {
		l := n.awaitLeadership(ctx)
		if l == nil {
			if ctx.Err() != nil {
				return nil
			}
			return ErrStopped
		}
		err := n.perform(ctx, l, duties)
		if err == nil {
			continue
		}
		if time.Since(lastFailure) > failuresForget {
			failures = 0
		}
		pause := min(time.Duration(failures)*restartPause, restartPauseMax)
		failures, lastFailure = failures+1, time.Now()
		n.log.Error("a leader's duty failed, resigning", "term", l.number, "error", err, "pause", pause)
		n.resign(ctx, l, pause)
	}
}

// awaitLeadership returns nil when ctx ends or the node stops.
func (n *Node) awaitLeadership(ctx context.Context) *leadership {
	for {
		l, changed := n.term.get()
		if ctx.Err() != nil {
			return nil
		}
		if l != nil && l.ctx.Err() == nil {
			return l
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		case <-n.stopped:
			return nil
		}
	}
}

// perform runs the duties of one term. It returns when all have returned and
// the term is over, or with the error of the first that failed before.
func (n *Node) perform(ctx context.Context, l *leadership, duties []Duty) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	g, run := errgroup.WithContext(ctx)
	for _, d := range duties {
		g.Go(func() error {
			if err := d.Run(run, &Term{l}); err != nil && run.Err() == nil {
				return fmt.Errorf("%s: %w", d.Name, err)
			}
			return nil
		})
	}
	err := g.Wait()
	if err == nil {
		<-ctx.Done() // all are done early
	}
	return err
}

// resign hands leadership on, or waits for another try where that fails.
func (n *Node) resign(ctx context.Context, l *leadership, pause time.Duration) {
	wait := func(d time.Duration) {
		select {
		case <-time.After(d):
		case <-l.lost():
		case <-ctx.Done():
		case <-n.stopped:
		}
	}
	wait(pause)
	transfer, cancel := context.WithTimeout(ctx, resignMax)
	defer cancel()
	if err := n.TransferLeadership(transfer); err != nil && l.ctx.Err() == nil {
		wait(max(restartPause, pause)) // the same node again
		return
	}
	select {
	case <-l.lost():
	case <-transfer.Done():
	case <-n.stopped:
	}
}
