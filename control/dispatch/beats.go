package dispatch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/proto/agent/beat"
)

const (
	// gather is what heartbeats wait for one another, so that many cost one waking up.
	gather = 50 * time.Millisecond
	// lookEvery is between two looks at who is silent.
	lookEvery = 100 * time.Millisecond
	// reviewEvery is how often it is looked whether there is a quorum, and whether the
	// control nodes are the same. ownedEvery is how often it is looked whose names
	// the nodes have; who takes a name over makes a Node of it, which is news itself.
	reviewEvery = time.Second
	ownedEvery  = 10 * time.Second
)

// beats hears heartbeats that come as datagrams and answers them, all from one
// goroutine: it is what an idle control node does most. A datagram that is not of
// a session here is not answered.
type beats struct {
	conn  *net.UDPConn // nil: agents send theirs through their sessions' streams
	awake *beat.Awake
	// interval is how often an agent is to send one now.
	interval atomic.Int64
	quorum   func() bool
	heard    func(*session)
	out      []byte

	mu       sync.RWMutex
	sessions map[uint64]*session
}

func newBeats(conn *net.UDPConn, quorum func() bool, heard func(*session)) *beats {
	b := &beats{conn: conn, awake: beat.NewAwake(2 * lookEvery), quorum: quorum, heard: heard, sessions: map[uint64]*session{}}
	b.interval.Store(int64(beat.Interval(0)))
	return b
}

// pulse is what a session has of datagrams.
type pulse struct {
	number uint64
	key    []byte
	// Only the goroutine that hears them uses what follows.
	seal     *beat.Seal
	sequence uint64 // of the latest
}

// join has s heard by datagrams; nil if none are.
func (b *beats) join(s *session) *pulse {
	if b.conn == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := &pulse{key: beat.NewKey()}
	for p.number == 0 || b.sessions[p.number] != nil {
		p.number = rand.Uint64()
	}
	p.seal = beat.NewSeal(p.number, p.key)
	b.sessions[p.number] = s
	return p
}

// leave has s not heard any more: that it was told to end is certain before the
// agent hears the next answer.
func (b *beats) leave(s *session) {
	if s.pulse == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.sessions, s.pulse.number)
}

// Run hears until ctx ends, and closes the socket.
func (b *beats) Run(ctx context.Context) error {
	if b.conn == nil {
		return nil
	}
	defer context.AfterFunc(ctx, func() { _ = b.conn.Close() })()
	raw, err := b.conn.SyscallConn()
	for err == nil {
		if err = raw.Read(b.drain); err == nil {
			err = sleep(ctx, gather)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("hear heartbeats: %w", err)
}

// drain answers all that has come, and says whether anything had.
func (b *beats) drain(socket uintptr) (some bool) {
	var in [beat.DatagramMax + 1]byte
	for ; ; some = true {
		n, from, err := unix.Recvfrom(int(socket), in[:], unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return some
		case err != nil:
			return true // an answer that did not arrive, for instance
		}
		if out := b.answer(in[:n]); len(out) > 0 {
			_ = unix.Sendto(int(socket), out, unix.MSG_DONTWAIT, from)
		}
	}
}

// answer is the answer to a beat, until the next one's; empty for none.
func (b *beats) answer(datagram []byte) []byte {
	number, err := beat.Session(datagram)
	if err != nil {
		return nil
	}
	b.mu.RLock()
	s := b.sessions[number]
	b.mu.RUnlock()
	if s == nil {
		return nil
	}
	said, err := s.pulse.seal.OpenBeat(datagram)
	if err != nil || said.Sequence <= s.pulse.sequence {
		return nil // forged; or an old one, heard before
	}
	s.pulse.sequence = said.Sequence
	interval := time.Duration(b.interval.Load())
	s.hears(b.awake.Now(), beat.SilentAfter(interval))
	b.heard(s)
	// The quorum is asked for after the clock was read: what the agent may conclude
	// from both (package fencing) must not be newer than that.
	b.out = s.pulse.seal.Answer(b.out[:0], beat.Answer{Beat: said, Quorum: b.quorum(), Interval: interval})
	return b.out
}

// watch looks who has fallen silent, and whether sessions may go on, until ctx ends.
// One goroutine does so for all: a timer for each, put off with each heartbeat, costs
// more than the heartbeat.
func (d *Dispatcher) watch(ctx context.Context) error {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var alone time.Duration // since when there is no quorum, by awake
	servers := d.cfg.Servers()
	for turn := 1; ; turn++ {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		now := d.beats.awake.Tick(2 * lookEvery)
		count := d.sessions.lookWhoIsSilent(now)
		d.beats.interval.Store(int64(beat.Interval(count)))
		if turn%int(reviewEvery/lookEvery) != 0 {
			continue
		}
		if d.cfg.Quorum() {
			alone = 0
		} else if alone == 0 {
			alone = now
		}
		was := servers
		servers = d.cfg.Servers()
		moved := !slices.Equal(was, servers)
		owned := turn%int(ownedEvery/lookEvery) == 0
		if alone == 0 && !moved && !owned {
			continue
		}
		for _, s := range d.sessions.all() {
			switch {
			case owned && s.replaced():
				s.end(errReplacedMachine)
			case alone != 0 && now-max(alone, s.opened) > aloneMax:
				s.end(errMinority)
			case moved:
				signal(s.serversMoved)
			}
		}
	}
}
