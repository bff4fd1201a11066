package consensus

import (
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// patiencePause is between two tries to reach a follower.
	patiencePause = 25 * time.Millisecond
	// patienceMax bounds one call, so that raft gets to see that it should stop.
	patienceMax = 10 * time.Second
)

// patient is raft's transport, except that a log message that does not get
// through is sent again here instead of failing. raft doubles its pause with
// each failure up to ten seconds, and only a log message that got through ends
// that: a control node that was down for a minute would then hear heartbeats,
// and so take part, but lag by ten seconds. To send an AppendEntries again is
// harmless, the follower has the entries then or takes them.
//
// Heartbeats go through as they are: what becomes of them is how raft knows who
// is there.
type patient struct {
	*raft.NetworkTransport
	raft   atomic.Pointer[raft.Raft] // set once there is one
	failed atomic.Uint64             // log messages of which raft was told that they failed

	incoming *incoming

	name  string // of this node
	early earlySenders
	log   raft.LogStore
}

// AppendEntriesPipeline is raft's pipeline, by which entries also go out before
// raft sends them.
func (p *patient) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	pipeline, err := p.NetworkTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return p.early.wrap(pipeline, p.about), nil
}

// about is what a message with entries from first on says beside them and its term.
func (p *patient) about(first uint64) (raft.AppendEntriesRequest, bool) {
	r := p.raft.Load()
	var previous raft.Log
	if r == nil || p.log.GetLog(first-1, &previous) != nil {
		return raft.AppendEntriesRequest{}, false
	}
	address := p.EncodePeer(raft.ServerID(p.name), p.LocalAddr())
	return raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(p.name), Addr: address},
		Leader:    address, PrevLogTerm: previous.Term, LeaderCommitIndex: r.CommitIndex(),
	}, true
}

func (p *patient) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	began := time.Now()
	for {
		if p.early.hushed.Load() {
			return errHushed
		}
		err := p.NetworkTransport.AppendEntries(id, target, args, resp)
		if err == nil || isHeartbeat(args) {
			return err
		}
		if time.Since(began) > patienceMax || !p.worthwhile(id, target, args.Term) {
			p.failed.Add(1)
			return err
		}
		*resp = raft.AppendEntriesResponse{}
		time.Sleep(patiencePause)
	}
}

// worthwhile says whether raft would send the message again itself: this node
// still leads in its term, and the follower is still a member at that address.
func (p *patient) worthwhile(id raft.ServerID, target raft.ServerAddress, term uint64) bool {
	r := p.raft.Load()
	if r == nil || r.State() != raft.Leader || r.CurrentTerm() != term {
		return false
	}
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.ID == id {
			return s.Address == target
		}
	}
	return false
}

// isHeartbeat: raft's heartbeats name neither a log position nor a commit index.
func isHeartbeat(args *raft.AppendEntriesRequest) bool {
	return len(args.Entries) == 0 && args.PrevLogEntry == 0 && args.PrevLogTerm == 0 && args.LeaderCommitIndex == 0
}
