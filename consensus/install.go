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
			if install, ok := rpc.Command.(*raft.InstallSnapshotRequest); ok {
				if !p.settled() {
					return
				}
				if p.has(install) {
					go p.keep(rpc)
					continue
				}
			}
			if !p.hand(rpc) {
				return
			}
		case <-p.incoming.closed:
			return
		}
	}
}

// hand gives raft a message; false: the transport is closed.
func (p *patient) hand(rpc raft.RPC) bool {
	select {
	case p.incoming.rpcs <- rpc:
		return true
	case <-p.incoming.closed:
		return false
	}
}

// settled returns when raft is done with all that it was handed before, which
// takes as long as its disk. It is asked something of a term long over, which
// it refuses, in its turn. Nothing else is handed over meanwhile, so what is
// then found to be in the log is there when raft gets the next message.
func (p *patient) settled() bool {
	if r := p.raft.Load(); r == nil || r.CurrentTerm() == 0 {
		return true // nothing was promised yet, and no term is over
	}
	answer := make(chan raft.RPCResponse, 1)
	if !p.hand(raft.RPC{
		Command:  &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}},
		RespChan: answer,
	}) {
		return false
	}
	select {
	case <-answer:
		return true
	case <-p.incoming.closed:
		return false
	}
}

// has says whether all that a snapshot of the current leader holds is here:
// committed, and so in this node's state or on its way there, or in the log up
// to the very entry that the snapshot ends with.
func (p *patient) has(install *raft.InstallSnapshotRequest) bool {
	r := p.raft.Load()
	if r == nil || install.Term < r.CurrentTerm() {
		return false // raft says so
	}
	var entry raft.Log
	return install.LastLogIndex <= r.CommitIndex() ||
		p.log.GetLog(install.LastLogIndex, &entry) == nil && entry.Term == install.LastLogTerm
}

// keep answers like a node that has installed the snapshot.
func (p *patient) keep(rpc raft.RPC) {
	_, err := io.Copy(io.Discard, rpc.Reader) // the connection is of use only after all of it
	rpc.Respond(&raft.InstallSnapshotResponse{Term: p.raft.Load().CurrentTerm(), Success: true}, err)
}
