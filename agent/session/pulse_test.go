package session

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/proto/agent/beat"
)

// played has a pulse live for so long and writes down what it sends: "d1.50" is a
// datagram after 1.5 s, "s" a heartbeat through the stream. Datagrams that passes likes
// are answered after 10 ms.
func played(p *pulse, begin time.Time, from, until time.Duration, passes func(sequence uint64) bool) string {
	var said []string
	for at := from; at < until; {
		datagram, stream, wait := p.next(begin.Add(at))
		if datagram != 0 {
			said = append(said, fmt.Sprintf("d%.2f", at.Seconds()))
			if passes(datagram) {
				p.answer(beat.Answer{Beat: beat.Beat{Sequence: datagram}, Quorum: true, Interval: time.Second})
				_, _, wait = p.next(begin.Add(at))
			}
		}
		if stream {
			said = append(said, fmt.Sprintf("s%.2f", at.Seconds()))
		}
		if wait <= 0 {
			panic("no time passes")
		}
		at += wait
	}
	return strings.Join(said, " ")
}

// A control node that has no quorum is asked again soon.
func TestAgentNeedNotBeLuckyWhereLeadersComeAndGo(t *testing.T) {
	begin := time.Now()
	p := newPulse(time.Second, begin)
	p.begin(time.Second, begin)
	datagram, _, _ := p.next(begin)
	p.answer(beat.Answer{Beat: beat.Beat{Sequence: datagram}, Interval: time.Second})
	if _, _, wait := p.next(begin.Add(10 * time.Millisecond)); wait != 190*time.Millisecond {
		t.Errorf("waits %v for the next datagram, want 190ms", wait)
	}
}

func TestWhatIsSentAndWhen(t *testing.T) {
	all, none := func(uint64) bool { return true }, func(uint64) bool { return false }
	for _, c := range []struct {
		name      string
		datagrams bool
		passes    func(uint64) bool
		want      string
	}{
		{"no datagrams", false, nil, "s1.00 s2.00 s3.00 s4.00"},
		{"all are answered", true, all, "d0.00 d1.00 d2.00 d3.00 d4.00"},
		{"one is lost", true, func(n uint64) bool { return n != 2 }, "d0.00 d1.00 d1.35 d2.35 d3.35 d4.35"},
		{"none is answered", true, none, "d0.00 d0.35 d1.05 s1.05 d2.05 s2.05 d3.05 s3.05 d4.05 s4.05"},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin := time.Now()
			p := newPulse(time.Second, begin)
			if c.datagrams {
				p.begin(time.Second, begin)
			}
			if got := played(p, begin, 0, 5*time.Second, c.passes); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// Where datagrams are filtered, few are sent; the first that passes is enough to send
// them again, and nothing else.
func TestDatagramsAreTriedAgain(t *testing.T) {
	begin := time.Now()
	p := newPulse(time.Second, begin)
	p.begin(time.Second, begin)
	played(p, begin, 0, 30*time.Second, func(uint64) bool { return false })
	said := played(p, begin, 30*time.Second, 60*time.Second, func(uint64) bool { return false })
	if got := strings.Count(said, "d"); got != 3 {
		t.Errorf("%d datagrams in half a minute, want 3: %s", got, said)
	}
	if got := strings.Count(said, "s"); got < 29 {
		t.Errorf("%d heartbeats through the stream in half a minute, want one each second: %s", got, said)
	}
	played(p, begin, 60*time.Second, 75*time.Second, func(uint64) bool { return true })
	said = played(p, begin, 75*time.Second, 85*time.Second, func(uint64) bool { return true })
	if d, s := strings.Count(said, "d"), strings.Count(said, "s"); d != 10 || s != 0 {
		t.Errorf("%d datagrams and %d heartbeats through the stream in ten seconds, want 10 and none: %s", d, s, said)
	}
}

// An answer says something once, and only if it is to what was sent.
func TestOldAnswersSayNothing(t *testing.T) {
	begin := time.Now()
	p := newPulse(time.Second, begin)
	p.begin(time.Second, begin)
	p.next(begin)
	p.next(begin.Add(time.Second))
	for _, c := range []struct {
		sequence uint64
		news     bool
	}{{3, false}, {2, true}, {2, false}, {1, false}} {
		if got := p.answer(beat.Answer{Beat: beat.Beat{Sequence: c.sequence}, Interval: time.Second}); got != c.news {
			t.Errorf("answer to %d is news: %v, want %v", c.sequence, got, c.news)
		}
	}
}
