package consensus

import (
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// Raft writes an entry to the leader's disk first and sends it to the followers
// then, so that two disks work one after the other. Here the entries that raft
// is about to write go out at the same time, in the message that raft is going
// to send: the same pipeline, the same term, the same place in the log.
//
// That is safe (Raft, Ongaro 2014, 10.2.1). A leader makes no second entry for
// an index in its term, written or not. It counts itself only when its own disk
// has the entry, and a majority without it is a majority. If the process dies
// in between, the entry is on the followers like any whose leader died.
//
// Raft's own message for these entries is dropped when it comes, and only then
// is raft given the answer to the early one. Told earlier that a follower has an
// entry that the leader's own log lacks still, raft would look there for what
// precedes the next one, not find it, and send a snapshot instead, older than
// what the follower has.

// earlyMax is how many groups of entries wait for one follower's connection.
// Beyond that raft sends them.
const earlyMax = 4

// earlySenders are the pipelines to followers that are open.
type earlySenders struct {
	hushed atomic.Bool // nothing is to be sent

	mu   sync.Mutex
	open map[*earlyPipeline]struct{}
}

// offer takes entries that raft is about to write, whose data does not change
// any more. It does not block.
func (e *earlySenders) offer(entries []*raft.Log) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for p := range e.open {
		select {
		case p.offered <- entries:
		default:
		}
	}
}

// earlyPipeline is raft's pipeline to one follower.
type earlyPipeline struct {
	raft.AppendPipeline
	in *earlySenders
	// about answers what raft would say beside the entries: the header, the
	// commit index, and the term of the entry before.
	about    func(first uint64) (raft.AppendEntriesRequest, bool)
	offered  chan []*raft.Log
	answered chan raft.AppendFuture
	closed   chan struct{}
	close    sync.Once

	mu   sync.Mutex // held while sending, so that messages have one order
	term uint64     // of raft's messages; 0: none has been sent
	sent uint64     // index of the last entry that the follower has or was sent

	claimed atomic.Uint64 // index of the last entry that raft has sent, as it believes
	claims  chan struct{} // room for one: it has grown
}

func (e *earlySenders) wrap(p raft.AppendPipeline, about func(uint64) (raft.AppendEntriesRequest, bool)) *earlyPipeline {
	it := &earlyPipeline{
		AppendPipeline: p, in: e, about: about, offered: make(chan []*raft.Log, earlyMax),
		answered: make(chan raft.AppendFuture), closed: make(chan struct{}), claims: make(chan struct{}, 1),
	}
	e.mu.Lock()
	if e.open == nil {
		e.open = map[*earlyPipeline]struct{}{}
	}
	e.open[it] = struct{}{}
	e.mu.Unlock()
	go it.run()
	go it.answer()
	return it
}

// Consumer is raft's.
func (p *earlyPipeline) Consumer() <-chan raft.AppendFuture { return p.answered }

// answer passes answers on, those to early messages when raft has sent its own.
// After one that makes raft give the pipeline up, raft takes no more of them; a
// sender that waits for room among the messages under way would then wait for
// ever, and replication to this follower with it.
func (p *earlyPipeline) answer() {
	var early []raft.AppendFuture // in the order of their entries
	tell := func(future raft.AppendFuture) bool {
		select {
		case p.answered <- future:
			return true
		case <-p.closed:
			return false
		}
	}
	for {
		select {
		case future := <-p.AppendPipeline.Consumer():
			if future.Error() != nil || !future.Response().Success {
				if tell(future) {
					_ = p.Close()
				}
				return
			}
			if lastEntry(future) > p.claimed.Load() {
				early = append(early, future)
			} else if !tell(future) {
				return
			}
		case <-p.claims:
		case <-p.closed:
			return
		}
		for len(early) > 0 && lastEntry(early[0]) <= p.claimed.Load() {
			if !tell(early[0]) {
				return
			}
			early = early[1:]
		}
	}
}

// lastEntry is the index of the last entry of a message; 0 if it has none.
func lastEntry(future raft.AppendFuture) uint64 {
	entries := future.Request().Entries
	if len(entries) == 0 {
		return 0
	}
	return entries[len(entries)-1].Index
}

// claim notes that raft has sent the entries up to last.
func (p *earlyPipeline) claim(last uint64) {
	if last > p.claimed.Load() { // raft alone does this
		p.claimed.Store(last)
		poke(p.claims)
	}
}

func (p *earlyPipeline) Close() error {
	p.close.Do(func() {
		p.in.mu.Lock()
		delete(p.in.open, p)
		p.in.mu.Unlock()
		close(p.closed)
	})
	return p.AppendPipeline.Close()
}

func (p *earlyPipeline) run() {
	for {
		select {
		case entries := <-p.offered:
			p.sendEarly(entries)
		case <-p.closed:
			return
		}
	}
}

func (p *earlyPipeline) sendEarly(entries []*raft.Log) {
	if p.in.hushed.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	first, last := entries[0], entries[len(entries)-1]
	if first.Term != p.term || first.Index != p.sent+1 {
		return // of another leadership, or the follower is behind: raft knows what it needs
	}
	req, ok := p.about(first.Index)
	if !ok {
		return
	}
	req.Term, req.PrevLogEntry, req.Entries = p.term, first.Index-1, entries
	if _, err := p.AppendPipeline.AppendEntries(&req, &raft.AppendEntriesResponse{}); err != nil {
		return // raft's next message finds the same
	}
	p.sent = last.Index
}

// AppendEntries is raft's.
func (p *earlyPipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if p.in.hushed.Load() {
		return nil, errHushed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(args.Entries); n > 0 {
		defer p.claim(args.Entries[n-1].Index)
		if args.Term == p.term && args.Entries[n-1].Index <= p.sent {
			return nil, nil // raft does not look at it: answers come by Consumer
		}
	}
	future, err := p.AppendPipeline.AppendEntries(args, resp)
	if err == nil {
		p.term = args.Term
		p.sent = max(p.sent, args.PrevLogEntry+uint64(len(args.Entries)))
	}
	return future, err
}
