package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/musterhq/muster/consensus/rhythm"
)

// Raft's leader keeps sending heartbeats while its disk hangs, and so goes on
// leading without being able to write (hashicorp/raft issue 503). Its main
// goroutine is in that write, so it can be asked nothing. Here such a leader
// falls silent, its term ends on this node, and the others elect one of them.
// If the write ends after all and nobody took over, it leads on.

var errHushed = errors.New("this node's disk hangs")

// hushAfter is the part of DiskDeadline after which a leader falls silent.
const hushAfter = 7 // 1.4 s of 10 s

// watchDisk ends Run when a write does not end: the kernel may hold it for ever.
func (n *Node) watchDisk(ctx context.Context) error {
	for {
		select {
		case <-rhythm.After(max(n.cfg.DiskDeadline/50, 10*time.Millisecond)):
			took := n.disk.under.longest()
			if took > n.cfg.DiskDeadline {
				return fmt.Errorf("the disk that holds %s hangs: a read or write has not ended for %s; this node stops so that another can lead",
					n.disk.path, took.Round(time.Second))
			}
			n.hush(took > n.cfg.DiskDeadline/hushAfter && n.othersCanLead())
		case <-ctx.Done():
			return nil
		}
	}
}

// othersCanLead says whether the other voters are enough for a leader.
func (n *Node) othersCanLead() bool {
	voters := votersOf(n.raft.GetConfiguration().Configuration())
	return len(voters)-1 >= len(voters)/2+1
}

func (n *Node) hush(hung bool) {
	was, _ := n.hung.get()
	if was == hung {
		return
	}
	n.trans.early.hushed.Store(hung)
	if l, _ := n.term.get(); hung && l != nil {
		n.log.Error("the disk hangs: another node is to lead", "dir", n.disk.path)
	}
	n.hung.set(hung)
}

// untilHung waits until the disk hangs or does not hang any more.
func (n *Node) untilHung(hung bool) <-chan struct{} {
	now, changed := n.hung.get()
	if now == hung {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return changed
}
