package consensus

import (
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// incoming hands raft what other nodes send, except a snapshot of what this
// node has already. Raft would install any: it would go back to an older state
// and drop the log after it, entries included that this node has acknowledged
// (hashicorp/raft 1.7.3, installSnapshot). A follower that holds what a snapshot
// holds keeps what it has (Raft, Ongaro 2014, figure 5.3).
type incoming struct {
	rpcs   chan raft.RPC
	closed chan struct{}
	close  sync.Once
}

func newIncoming() *incoming {
	return &incoming{rpcs: make(chan raft.RPC), closed: make(chan struct{})}
}

// Consumer is raft's.
func (p *patient) Consumer() <-chan raft.RPC { return p.incoming.rpcs }

// Close ends the transport and all that goes through it.
func (p *patient) Close() error {
	p.incoming.close.Do(func() { close(p.incoming.closed) })
	return p.NetworkTransport.Close()
}

// receive passes on what comes, until the transport is closed.
func (p *patient) receive() {
	for {
		select {
		case rpc := <-p.NetworkTransport.Consumer():
			if install, ok := rpc.Command.(*raft.InstallSnapshotRequest); ok && p.has(install) {
				go p.keep(rpc)
				continue
			}
			select {
			case p.incoming.rpcs <- rpc:
			case <-p.incoming.closed:
				return
			}
		case <-p.incoming.closed:
			return
		}
	}
}

// has says whether all that a snapshot of the current leader holds is committed
// here: then it is in this node's state, or in its log and on its way there.
func (p *patient) has(install *raft.InstallSnapshotRequest) bool {
	r := p.raft.Load()
	return r != nil && install.Term >= r.CurrentTerm() && install.LastLogIndex <= r.CommitIndex()
}

// keep answers like a node that has installed the snapshot.
func (p *patient) keep(rpc raft.RPC) {
	_, err := io.Copy(io.Discard, rpc.Reader) // the connection is of use only after all of it
	rpc.Respond(&raft.InstallSnapshotResponse{Term: p.raft.Load().CurrentTerm(), Success: true}, err)
}
