package consensus

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// peers are the other nodes as one term's leader talks to them beside raft's
// own replication, over raft's transport and in raft's messages: heartbeats
// that prove a read index, and notices of a commit.
type peers struct {
	l  *leadership
	mu sync.Mutex
	of map[peerKey]*peer
}

type peerKey struct {
	id      raft.ServerID
	address raft.ServerAddress
}

type peer struct {
	server    raft.Server
	heartbeat *courier // its value is a round's number
	notice    *courier // its value is a log index
}

// get returns the peer, whose couriers work until the term ends.
func (p *peers) get(s raft.Server) *peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := peerKey{s.ID, s.Address}
	it := p.of[key]
	if it == nil {
		it = &peer{server: s, heartbeat: newCourier(), notice: newCourier()}
		p.of[key] = it
		start := p.l.node.background.start
		start(func() { it.heartbeat.run(p.l.ctx, func(uint64) bool { return p.l.append(it.server, 0) }) })
		start(func() { it.notice.run(p.l.ctx, func(index uint64) bool { return p.l.append(it.server, index) }) })
	}
	return it
}

// notify tells the followers at once that index is committed; raft itself says
// so with the next entry or after Config.Commit, and who proposed on a
// follower would wait for that. Not needed when more entries follow, which say it
// in passing.
func (l *leadership) notify(o outcome, more bool) {
	if more || o.term != l.number {
		return
	}
	for _, s := range l.node.raft.GetConfiguration().Configuration().Servers {
		if string(s.ID) != l.node.cfg.Name {
			l.peers.get(s).notice.offer(o.index, nil)
		}
	}
}

// append sends an empty AppendEntries of this term and says if it was accepted.
// Without an index it is a heartbeat. With one, it says that the entry there,
// one of this term that is committed, follows on the receiver's log: exactly
// what replication would say, so it is harmless at any time and in any number.
func (l *leadership) append(to raft.Server, committed uint64) bool {
	n := l.node
	address := n.trans.EncodePeer(raft.ServerID(n.cfg.Name), n.trans.LocalAddr())
	req := raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(n.cfg.Name), Addr: address},
		Term:      l.number,
		Leader:    address,
	}
	if committed > 0 {
		req.PrevLogEntry, req.PrevLogTerm, req.LeaderCommitIndex = committed, l.number, committed
	}
	var resp raft.AppendEntriesResponse
	err := n.trans.NetworkTransport.AppendEntries(to.ID, to.Address, &req, &resp) // not patient: the courier is
	return err == nil && resp.Success && resp.Term <= l.number
}

// courier delivers the newest of the values it is given, one delivery at a
// time: values that come meanwhile are merged into the next.
type courier struct {
	mu     sync.Mutex
	value  uint64
	notify chan<- struct{} // of the newest value
	wake   chan struct{}   // room for one
}

func newCourier() *courier { return &courier{wake: make(chan struct{}, 1)} }

// offer asks for a delivery of value, or a later one, that starts from now on.
// If accepted is not nil it is sent to once the delivery was accepted, unless a
// newer value came before; it must have room.
func (c *courier) offer(value uint64, accepted chan<- struct{}) {
	c.mu.Lock()
	c.value, c.notify = max(c.value, value), accepted
	c.mu.Unlock()
	poke(c.wake)
}

// run delivers until ctx ends. A delivery that is not accepted is tried again a
// few times: a notice may overtake the entry it names, a kept connection may
// have been dead. After that raft itself says what is to be said.
func (c *courier) run(ctx context.Context, deliver func(uint64) bool) {
	tries := 0
	for {
		select {
		case <-c.wake:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		value, accepted := c.value, c.notify
		c.notify = nil
		c.mu.Unlock()
		if deliver(value) {
			if accepted != nil {
				accepted <- struct{}{}
			}
			tries = 0
			continue
		}
		select {
		case <-time.After(min(courierPause<<tries, retryPause)):
		case <-ctx.Done():
			return
		}
		if tries++; tries == courierTries {
			tries = 0
			continue
		}
		c.mu.Lock()
		if c.notify == nil {
			c.notify = accepted
		}
		c.mu.Unlock()
		poke(c.wake)
	}
}

const (
	courierPause = 500 * time.Microsecond // doubles up to retryPause
	courierTries = 10
)
