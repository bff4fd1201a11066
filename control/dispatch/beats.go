package dispatch

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/consensus/rhythm"
	"github.com/musterhq/muster/proto/agent/beat"
)

const (
	// lookEvery is between two looks at what agents said and at who is silent. To hear
	// each heartbeat when it comes is to be woken up fifty times as often, with a
	// thousand agents.
	lookEvery = 100 * time.Millisecond
	// heldUpMost is how late such a look may be without a word.
	heldUpMost = time.Second
	// reviewEvery is how often it is looked whether there is a quorum, and whether the
	// control nodes are the same. ownedEvery is how often it is looked whose names
	// the nodes have; who takes a name over makes a Node of it, which is news itself.
	reviewEvery = time.Second
	ownedEvery  = 10 * time.Second
	// batch is how many datagrams one system call takes, and takesMost how many are
	// taken at one look, whoever sends them.
	batch     = 64
	takesMost = 1 << 14
	// backlog is for all that agents say between two looks, and more, in bytes.
	backlog = 4 << 20
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

	// What follows is the one goroutine's.
	packets *ipv6.PacketConn // conn's, of IPv4 or IPv6
	in, out []ipv6.Message

	mu       sync.RWMutex
	sessions map[uint64]*session
}

func newBeats(conn *net.UDPConn, quorum func() bool, heard func(*session)) *beats {
	b := &beats{conn: conn, awake: beat.NewAwake(2 * lookEvery), quorum: quorum, heard: heard, sessions: map[uint64]*session{}}
	b.interval.Store(int64(beat.Interval(0)))
	if conn == nil {
		return b
	}
	b.in, b.out = make([]ipv6.Message, batch), make([]ipv6.Message, 0, batch)
	for i := range b.in {
		b.in[i].Buffers = [][]byte{make([]byte, beat.DatagramMax+1)}
	}
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

// take answers all that has come.
func (b *beats) take() {
	for taken := 0; taken < takesMost; taken += batch {
		n, err := b.packets.ReadBatch(b.in, unix.MSG_DONTWAIT)
		if err != nil && !errors.Is(err, unix.EAGAIN) {
			continue // an answer that did not arrive, for instance
		}
		b.out = b.out[:0]
		for i := range max(n, 0) {
			in := &b.in[i]
			b.answer(in.Buffers[0][:in.N], in.Addr)
		}
		for out := b.out; len(out) > 0; {
			sent, err := b.packets.WriteBatch(out, unix.MSG_DONTWAIT)
			if err != nil {
				sent = 1 // its agent sends another
			}
			out = out[max(sent, 1):]
		}
		if n < batch {
			return
		}
	}
}

// answer adds the answer to a beat to what is sent next, if it is one.
func (b *beats) answer(datagram []byte, from net.Addr) {
	number, err := beat.Session(datagram)
	if err != nil {
		return
	}
	b.mu.RLock()
	s := b.sessions[number]
	b.mu.RUnlock()
	if s == nil {
		return
	}
	said, err := s.pulse.seal.OpenBeat(datagram)
	if err != nil || said.Sequence <= s.pulse.sequence {
		return // forged; or an old one, heard before
	}
	s.pulse.sequence = said.Sequence
	interval := time.Duration(b.interval.Load())
	s.hears(b.awake.Now(), beat.SilentAfter(interval))
	b.heard(s)
	// The quorum is asked for after the clock was read: what the agent may conclude
	// from both (package fencing) must not be newer than that.
	answer := beat.Answer{Beat: said, Quorum: b.quorum(), Interval: interval}
	b.out = b.out[:len(b.out)+1]
	out := &b.out[len(b.out)-1]
	if out.Buffers == nil {
		out.Buffers = [][]byte{nil}
	}
	out.Buffers[0] = s.pulse.seal.Answer(out.Buffers[0][:0], answer)
	out.Addr = from
}

// listen hears heartbeats and looks who has fallen silent, until ctx ends; it closes
// the socket then. One goroutine does so for all: a timer for each, put off with each
// heartbeat, costs more than the heartbeat. That it hears first is why nobody is
// silent whose heartbeat waits here.
func (d *Dispatcher) listen(ctx context.Context) error {
	if d.beats.conn != nil {
		socket, err := unpoll(d.beats.conn)
		if err != nil {
			return err
		}
		defer socket.Close()
		socket.enlarge(backlog)
		d.beats.packets = ipv6.NewPacketConn(socket)
	}
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-rhythm.After(lookEvery):
		}
		d.beats.awake.Tick(2 * lookEvery)
		if d.beats.conn != nil {
			d.beats.take()
		}
		count := d.sessions.lookWhoIsSilent(d.beats.awake.Now())
		d.beats.interval.Store(int64(beat.Interval(count)))
		if took := time.Since(last) - lookEvery; took > heldUpMost {
			d.log.Warn("this machine is too busy to hear its agents in time", "late", took.Round(time.Millisecond), "agents", count)
		}
		last = time.Now()
	}
}

// review looks whether sessions may go on, until ctx ends.
func (d *Dispatcher) review(ctx context.Context) error {
	var alone time.Duration // since when there is no quorum, by awake
	servers := d.cfg.Servers()
	for turn := 1; ; turn++ {
		select {
		case <-ctx.Done():
			return nil
		case <-rhythm.After(reviewEvery):
		}
		now := d.beats.awake.Now()
		if d.cfg.Quorum() {
			alone = 0
		} else if alone == 0 {
			alone = now
		}
		was := servers
		servers = d.cfg.Servers()
		moved := !slices.Equal(was, servers)
		owned := turn%int(ownedEvery/reviewEvery) == 0
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
