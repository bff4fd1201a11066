package dispatch

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// settle bounds how long a new leader waits to hear from the other control
// nodes before it believes that an agent nobody named is absent.
const settle = 3 * time.Second

// peersInterval is how often the leader looks whether there are new control nodes.
const peersInterval = time.Second

// Presence is the leader's picture of which agents are heard, merged from the
// sessions on all control nodes and from gossip. It is made for one term.
type Presence struct {
	d *Dispatcher

	mu      sync.Mutex
	heard   map[string]map[string]string // control node → node → session
	synced  map[string]bool              // control nodes heard in full once
	silent  map[string]time.Duration     // nodes whose session has ended, for how long they had said nothing
	changed chan struct{}
	ready   bool
}

// NewPresence makes a Presence that knows nothing yet.
func (d *Dispatcher) NewPresence() *Presence {
	return &Presence{d: d, heard: map[string]map[string]string{}, synced: map[string]bool{}, silent: map[string]time.Duration{}, changed: make(chan struct{})}
}

// Alive says whether any control node holds a session of the node's agent, and
// whether gossip believes it alive.
func (p *Presence) Alive(node string) (session, gossip bool) {
	p.mu.Lock()
	for _, sessions := range p.heard {
		if _, ok := sessions[node]; ok {
			session = true
			break
		}
	}
	p.mu.Unlock()
	return session, p.d.cfg.Gossip.Alive(node)
}

// SilentFor is for how long the node's agent had said nothing when its session
// ended, 0 when the connection broke or nothing is known.
func (p *Presence) SilentFor(node string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.silent[node]
}

// Ready says that absence means something: every control node was heard in
// full, or has had settle to speak.
func (p *Presence) Ready() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready
}

// Changed is closed when what Alive or Ready answer may have changed.
func (p *Presence) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// wake runs with mu held.
func (p *Presence) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Run listens to all control nodes until ctx ends.
func (p *Presence) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { p.hearOwn(ctx); return nil })
	group.Go(func() error { p.hearGossip(ctx); return nil })
	group.Go(func() error {
		select {
		case <-ctx.Done():
		case <-time.After(settle):
			p.mu.Lock()
			p.ready = true
			p.wake()
			p.mu.Unlock()
		}
		return nil
	})
	group.Go(func() error {
		ticker := time.NewTicker(peersInterval)
		defer ticker.Stop()
		following := map[Peer]context.CancelFunc{}
		for {
			now := map[Peer]bool{}
			for _, peer := range p.d.cfg.Peers() {
				now[peer] = true
				if following[peer] == nil {
					peerCtx, cancel := context.WithCancel(ctx)
					following[peer] = cancel
					group.Go(func() error { p.hearPeer(peerCtx, peer); return nil })
				}
			}
			for peer, cancel := range following {
				if !now[peer] {
					cancel()
					delete(following, peer)
				}
			}
			p.judgeReady()
			select {
			case <-ctx.Done():
				for _, cancel := range following {
					cancel()
				}
				return nil
			case <-ticker.C:
			}
		}
	})
	return group.Wait()
}

func (p *Presence) judgeReady() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ready || !p.synced[p.d.cfg.Name] {
		return
	}
	for _, peer := range p.d.cfg.Peers() {
		if !p.synced[peer.Name] {
			return
		}
	}
	p.ready = true
	p.wake()
}

func (p *Presence) hearOwn(ctx context.Context) {
	for {
		ids, changed := p.d.sessions.ids()
		p.mu.Lock()
		for node := range p.heard[p.d.cfg.Name] {
			if _, still := ids[node]; !still {
				p.silent[node] = p.d.sessions.silentFor(node)
			}
		}
		for node := range ids {
			delete(p.silent, node)
		}
		p.heard[p.d.cfg.Name] = ids
		p.synced[p.d.cfg.Name] = true
		p.wake()
		p.mu.Unlock()
		p.judgeReady()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

func (p *Presence) hearGossip(ctx context.Context) {
	for {
		changed := p.d.cfg.Gossip.Changed()
		p.mu.Lock()
		p.wake()
		p.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// hearPeer follows one control node's sessions. When that node is lost, so are
// its sessions: agents that live open new ones elsewhere within the grace that
// the node lifecycle gives.
func (p *Presence) hearPeer(ctx context.Context, peer Peer) {
	for attempt := 0; ctx.Err() == nil; attempt++ {
		began := time.Now()
		err := p.followPeer(ctx, peer)
		p.mu.Lock()
		delete(p.heard, peer.Name)
		p.wake()
		p.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > settle {
			attempt = 0
		}
		p.d.log.Debug("control node's sessions not heard", "peer", peer.Name, "error", err)
		_ = pause(ctx, attempt)
	}
}

func (p *Presence) followPeer(ctx context.Context, peer Peer) error {
	conn, err := p.d.cfg.Dial(ctx, peer.Name, peer.Address)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := clusterv1.NewSessionsClient(conn).Watch(ctx, &clusterv1.WatchSessionsRequest{})
	if err != nil {
		return err
	}
	// By the clock that stands still with this process: what came meanwhile is
	// still to be read.
	awake := p.d.beats.awake
	var heard atomic.Int64
	heard.Store(int64(awake.Now()))
	group, ctx := errgroup.WithContext(ctx)
	defer group.Wait()
	defer cancel()
	group.Go(func() error {
		for {
			left := silence - (awake.Now() - time.Duration(heard.Load()))
			if left <= 0 {
				cancel()
				return nil
			}
			if sleep(ctx, left) != nil {
				return nil
			}
		}
	})
	// Until the set is whole it is this goroutine's own, afterwards mu guards it.
	sessions := map[string]string{}
	synced := false
	for {
		event, err := events.Recv()
		if err != nil {
			return err
		}
		heard.Store(int64(awake.Now()))
		if event.Heartbeat {
			continue
		}
		p.mu.Lock()
		switch {
		case event.Synced:
			synced = true
			p.heard[peer.Name] = sessions
			p.synced[peer.Name] = true
		case event.Connected:
			sessions[event.Node] = event.Session
			delete(p.silent, event.Node)
		case sessions[event.Node] == event.Session:
			delete(sessions, event.Node)
			p.silent[event.Node] = time.Duration(event.SilentMs) * time.Millisecond
		}
		if synced {
			p.wake()
		}
		p.mu.Unlock()
		if event.Synced {
			p.judgeReady()
		}
	}
}
