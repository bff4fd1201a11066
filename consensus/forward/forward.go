// Package forward carries a follower's commands and read indexes to the leader
// over one stream, in batches. That the stream breaks is also how a follower
// learns at once that the leader's process is gone. What a command means, when
// it is safe to send it again and who leads is consensus' business.
package forward

import (
	"context"
	"errors"
	"fmt"
	"strings"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// Why a command was refused.
var (
	// ErrNotLeader: it will not be applied; another node may lead.
	ErrNotLeader = errors.New("not the leader")
	// ErrBusy: it will not be applied; too many are waiting.
	ErrBusy = errors.New("too many commands are waiting")
	// ErrNoSpace: it will not be applied; too many disks are full.
	ErrNoSpace = errors.New("the disks of too many control nodes are full: free some space")
	// ErrLost: it may or may not be applied.
	ErrLost = errors.New("the leader lost it")
)

// Leader is one term of the node that leads, as its followers use it.
type Leader interface {
	Term() uint64
	// Done is closed when the term is over.
	Done() <-chan struct{}
	// Propose does not block. An error, or a later call of refuse with one,
	// means what the errors of this package say; refuse is called at most once.
	Propose(origin, sequence uint64, command []byte, refuse func(error)) error
	// ReadIndex answers a log index that is at least the commit index at the time
	// of asking. voucher names a voter that was in this leader's term when it
	// asked, "" if there is none.
	ReadIndex(ctx context.Context, voucher string) (uint64, error)
	// Disk is told whether a follower's disk is full; it does not block.
	Disk(follower string, full bool)
}

// Follower is who opens a stream.
type Follower struct {
	Name string
	// Origin tells this process from all others.
	Origin uint64
	// Term is raft's current term here.
	Term func() uint64
	// Disk says whether this node's disk is full, and has the channel closed when
	// that changes.
	Disk func() (full bool, changed <-chan struct{})
	// Refuse is told what the leader will not apply; it must not block. Success
	// is not reported: the caller sees the command applied.
	Refuse func(sequence uint64, err error)
}

const (
	// One message carries at most this much, or a single command that is larger.
	batchBytesMax    = 1 << 20
	batchCommandsMax = 1000
	// What a follower holds that is not yet sent. At the bound Propose answers ErrBusy.
	queueCommandsMax = 8192
	queueBytesMax    = 64 << 20
)

func reasonOf(err error) clusterv1.Refusal_Reason {
	switch {
	case errors.Is(err, ErrNotLeader):
		return clusterv1.Refusal_NOT_LEADER
	case errors.Is(err, ErrBusy):
		return clusterv1.Refusal_BUSY
	case errors.Is(err, ErrNoSpace):
		return clusterv1.Refusal_NO_SPACE
	default:
		return clusterv1.Refusal_LOST
	}
}

// refusal is err on its way to the follower. Only of a full disk does the
// leader know more than the reason.
func refusal(sequence uint64, err error) *clusterv1.Refusal {
	r := &clusterv1.Refusal{Sequence: sequence, Reason: reasonOf(err)}
	if r.Reason == clusterv1.Refusal_NO_SPACE {
		r.Message = err.Error()
	}
	return r
}

func errorOf(r *clusterv1.Refusal) error {
	switch r.GetReason() {
	case clusterv1.Refusal_NOT_LEADER:
		return ErrNotLeader
	case clusterv1.Refusal_BUSY:
		return ErrBusy
	case clusterv1.Refusal_NO_SPACE:
		if more, said := strings.CutPrefix(r.GetMessage(), ErrNoSpace.Error()); said && more != "" {
			return fmt.Errorf("%w%s", ErrNoSpace, more)
		}
		return ErrNoSpace
	default: // also what a newer leader may say
		return ErrLost
	}
}

// poke wakes whoever waits on a channel with room for one.
func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
