package session

import (
	"sync"
	"time"

	"github.com/musterhq/muster/proto/agent/beat"
)

const (
	// answerWithin is how long a datagram's answer may take before the next is sent,
	// twice as long for that one's, and so on up to the interval. Control nodes look
	// for datagrams ten times a second.
	answerWithin = 350 * time.Millisecond
	// missedFew datagrams without an answer, and heartbeats are sent through the
	// stream as well; after missedMany datagrams are taken not to pass, and one is
	// tried in the time of tryAfter heartbeats through the stream.
	missedFew  = 2
	missedMany = 6
	tryAfter   = 10
	// againEvery is between datagrams that find no quorum.
	againEvery = 200 * time.Millisecond

	intervalLeast, intervalMost = 50 * time.Millisecond, 10 * time.Second
)

// pulse decides when a session says that its agent lives, and by what. It has
// neither clock nor socket.
type pulse struct {
	mu sync.Mutex
	// every is between heartbeats of the stream, where datagrams do not pass.
	every     time.Duration
	streamDue time.Time

	datagrams bool
	interval  time.Duration // between datagrams
	sent, due time.Time
	sequence  uint64 // of the last that was sent
	answered  uint64 // and was answered
	missed    int    // sent since then
}

func newPulse(every time.Duration, now time.Time) *pulse {
	return &pulse{every: every, streamDue: now.Add(every)}
}

// begin says that datagrams can be sent, the first one now.
func (p *pulse) begin(interval time.Duration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.datagrams, p.interval, p.due = true, bounded(interval), now
}

func bounded(interval time.Duration) time.Duration {
	return min(max(interval, intervalLeast), intervalMost)
}

// next is what to send now: a datagram of that sequence, 0 for none, a heartbeat
// through the stream, or both; and how long to wait then.
func (p *pulse) next(now time.Time) (datagram uint64, stream bool, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.datagrams && !now.Before(p.due) {
		p.sequence++
		p.missed++
		datagram, p.sent = p.sequence, now
		pause := min(answerWithin<<min(p.missed-1, 10), p.interval)
		if p.missed > missedMany {
			pause = tryAfter * p.every
		}
		p.due = now.Add(pause)
	}
	if p.datagrams && p.missed <= missedFew {
		return datagram, false, p.due.Sub(now)
	}
	if !now.Before(p.streamDue) {
		stream = true
		pause := p.every
		if p.datagrams && p.missed <= missedMany {
			pause = min(pause, p.interval)
		}
		p.streamDue = now.Add(pause)
	}
	wait = p.streamDue.Sub(now)
	if p.datagrams {
		wait = min(wait, p.due.Sub(now))
	}
	return datagram, stream, wait
}

// answer takes an answer; false if it is not news.
func (p *pulse) answer(a beat.Answer) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.Sequence <= p.answered || a.Sequence > p.sequence {
		return false
	}
	p.answered, p.missed, p.interval = a.Sequence, 0, bounded(a.Interval)
	p.due = p.sent.Add(p.interval)
	if !a.Quorum { // where leaders come and go, an agent must not have to be lucky
		p.due = p.sent.Add(min(againEvery, p.interval))
	}
	return true
}

// apart is the time between two signs of life of the control node, if all is well.
func (p *pulse) apart() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.datagrams && p.missed <= missedMany {
		return p.interval
	}
	return p.every
}
