package dispatch

import (
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/musterhq/muster/proto/agent/beat"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// hearBeats makes an agent's end of the datagrams: a socket, and what it was told.
func (n *controlNode) hearBeats(t *testing.T, session grpc.BidiStreamingClient[agentv1.FromAgent, agentv1.ToAgent]) (*net.UDPConn, *agentv1.Beats) {
	t.Helper()
	first, err := session.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if first.GetBeats() == nil {
		t.Fatalf("the agent is told %v first, want how it sends its heartbeats", first)
	}
	conn, err := net.DialUDP("udp", nil, n.cfg.Beats.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, first.GetBeats()
}

// exchange sends a datagram and returns the answer; false if there is none.
func exchange(t *testing.T, conn *net.UDPConn, datagram []byte, within time.Duration) ([]byte, bool) {
	t.Helper()
	if _, err := conn.Write(datagram); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 2*beat.DatagramMax)
	size, err := conn.Read(buffer)
	return buffer[:size], err == nil
}

const (
	hasAnswer = 10 * time.Second       // what a good one may take on a busy machine
	hasNone   = 200 * time.Millisecond // enough for one that is answered wrongly
)

// Whoever is on the way may forge, change and repeat what they like: only the agent
// itself is heard and answered, each time once, and only while its session lasts.
func TestOnlyTheAgentsOwnDatagramsAreHeard(t *testing.T) {
	n := newControlNodesWith(t, func(c *Config) { c.Beats = listenUDP(t) }, "c1")[0]
	a, other := n.connectWithDatagrams("n1"), n.connectWithDatagrams("n2")
	conn, beats := n.hearBeats(t, a.session)
	_, others := n.hearBeats(t, other.session)
	seal := beat.NewSeal(beats.Session, beats.Key)

	first := seal.Beat(nil, beat.Beat{Sequence: 1, Clock: 100})
	text, ok := exchange(t, conn, first, hasAnswer)
	got, err := seal.OpenAnswer(text)
	if want := (beat.Answer{Beat: beat.Beat{Sequence: 1, Clock: 100}, Quorum: true, Interval: beat.Interval(2)}); !ok || err != nil || got != want {
		t.Fatalf("answer %+v (%v, %v), want %+v", got, ok, err, want)
	}
	changed := seal.Beat(nil, beat.Beat{Sequence: 2, Clock: 200})
	changed[len(changed)-1] ^= 1
	for name, datagram := range map[string][]byte{
		"the first again":                  first,
		"one that was changed":             changed,
		"with another session's key":       beat.NewSeal(beats.Session, others.Key).Beat(nil, beat.Beat{Sequence: 3, Clock: 300}),
		"of a session that does not exist": beat.NewSeal(beats.Session+1, beats.Key).Beat(nil, beat.Beat{Sequence: 3, Clock: 300}),
		"an answer":                        text,
		"nothing":                          {},
		"too much":                         make([]byte, 1000),
	} {
		if text, ok := exchange(t, conn, datagram, hasNone); ok {
			t.Errorf("%s is answered: %q", name, text)
		}
	}
	n.cutOff.Store(true)
	text, ok = exchange(t, conn, seal.Beat(nil, beat.Beat{Sequence: 3, Clock: 300}), hasAnswer)
	if got, err := seal.OpenAnswer(text); !ok || err != nil || got.Quorum || got.Clock != 300 {
		t.Errorf("answer of a control node without a quorum: %+v (%v, %v), want it to say so", got, ok, err)
	}
	n.cutOff.Store(false)

	if err := a.session.CloseSend(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return n.sessions.get("n1") == nil })
	if text, ok := exchange(t, conn, seal.Beat(nil, beat.Beat{Sequence: 4, Clock: 400}), hasNone); ok {
		t.Errorf("after the session's end a heartbeat is answered: %q", text)
	}
}

// An agent that falls silent is not counted as heard, which is told to the leader; when
// it says something again it is, and its session is the same.
func TestASilentAgentKeepsItsSession(t *testing.T) {
	nodes := newControlNodesWith(t, func(c *Config) { c.Beats = listenUDP(t) }, "c1", "c2")
	presence := nodes[0].NewPresence()
	done := make(chan error, 1)
	go func() { done <- presence.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	alive := func() bool { session, _ := presence.Alive("n1"); return session }
	for i, n := range nodes { // the leader's own, then another's
		a := n.connectWithDatagrams("n1")
		conn, beats := n.hearBeats(t, a.session)
		seal := beat.NewSeal(beats.Session, beats.Key)
		if _, ok := exchange(t, conn, seal.Beat(nil, beat.Beat{Sequence: 1}), hasAnswer); !ok {
			t.Fatal("a heartbeat is not answered")
		}
		eventually(t, alive)
		was := n.sessions.get("n1")
		eventually(t, func() bool { return !alive() })
		if got, want := presence.SilentFor("n1"), beat.SilentAfter(beat.Interval(1)); got < want {
			t.Errorf("control node %d: silent for %v, want at least %v", i, got, want)
		}
		eventually(t, func() bool {
			_, ok := exchange(t, conn, seal.Beat(nil, beat.Beat{Sequence: uint64(time.Now().UnixNano())}), hasAnswer)
			return ok && alive()
		})
		if now := n.sessions.get("n1"); now != was {
			t.Errorf("control node %d: the agent has another session", i)
		}
		if err := a.session.CloseSend(); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return n.sessions.get("n1") == nil })
	}
}

// An agent that can't send datagrams is not told how.
func TestAnOlderAgentIsHeardThroughItsStream(t *testing.T) {
	n := newControlNodesWith(t, func(c *Config) { c.Beats = listenUDP(t) }, "c1")[0]
	a := n.connect("n1")
	n.givePodCIDR("n1")
	if first := a.hear(); first.GetWelcome() == nil {
		t.Errorf("the agent is told %v first, want a welcome", first)
	}
	a.say(&agentv1.FromAgent{Message: &agentv1.FromAgent_Heartbeat{Heartbeat: &agentv1.Heartbeat{Clock: 5}}})
	for {
		message, err := a.session.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if beat := message.GetHeartbeat(); beat != nil {
			if beat.Clock != 5 || !beat.Quorum {
				t.Errorf("answer %v, want clock 5 and a quorum", beat)
			}
			return
		}
	}
}

func listenUDP(t *testing.T) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}
