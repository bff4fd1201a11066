// Package flow gives each client its share of the requests that are worked on at
// once. Whoever asks for more waits in a queue, and so does not make others wait.
// Which requests count, and how a refusal is told, is the API server's business.
package flow

import (
	"container/list"
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"time"
)

// Refusals. Both mean: try again a little later.
var (
	ErrFull = errors.New("too many requests wait already")
	ErrLate = errors.New("waited too long for a turn")
)

// Bounds of what waits, upstream's of its default level.
const (
	queues    = 128
	hand      = 6
	queueMost = 50
	// queuesMax and handMax bound what Config may ask for: a queue costs some 100
	// bytes, and a look when a turn ends.
	queuesMax = 4096
	handMax   = 10
	// guess is what a request is charged before it is known how long it takes.
	guess = 3 * time.Millisecond
)

// Queue lets a number of requests run at a time. The others wait in queues that
// take turns by the time that their requests took. A client's requests go to the
// shortest of a few queues that are its own hand: two clients rarely share all
// of theirs (shuffle sharding), so one that floods leaves the others a queue
// without it.
type Queue struct {
	seats, hand, most int
	wait              time.Duration
	seed              maphash.Seed

	mu      sync.Mutex
	running int
	waiting int
	queues  []queue
	// virtual is the turn of the queue that was served last.
	virtual time.Duration
}

type queue struct {
	waiting list.List // of *turn, oldest first
	running int
	// virtual is how much time the queue was given, counted from when it last
	// became busy.
	virtual time.Duration
}

// turn is a request that waits.
type turn struct {
	ready chan struct{} // closed when it may run
}

// Config of a Queue.
type Config struct {
	// Seats are how many requests run at a time.
	Seats int
	// Queues are how many there are for what waits, Hand how many of them are a
	// client's, and Most how many requests wait in each. With Most 0 nothing waits.
	Queues, Hand, Most int
	// Wait is the longest that a request waits for its turn.
	Wait time.Duration
}

// New returns a queue for seats requests at a time; one waits for its turn no
// longer than wait.
func New(seats int, wait time.Duration) *Queue {
	return Of(Config{Seats: seats, Queues: queues, Hand: hand, Most: queueMost, Wait: wait})
}

// Of returns a queue as configured, within bounds.
func Of(c Config) *Queue {
	n := min(max(c.Queues, 1), queuesMax)
	return &Queue{seats: c.Seats, hand: min(max(c.Hand, 1), n, handMax), most: c.Most, wait: c.Wait, seed: maphash.MakeSeed(), queues: make([]queue, n)}
}

// Enter returns when a request of a client may run: leave must be called when it
// has. An exempt request never waits; it is refused when twice as many run as
// there are seats. The error is ErrFull, ErrLate, or that of ctx.
func (q *Queue) Enter(ctx context.Context, client string, exempt bool) (leave func(), err error) {
	q.mu.Lock()
	if exempt {
		defer q.mu.Unlock()
		if q.running >= 2*q.seats {
			return nil, ErrFull
		}
		q.running++
		return func() { q.leave(nil, 0) }, nil
	}
	mine := q.choose(client)
	if q.running < q.seats && q.waiting == 0 {
		q.start(mine)
		q.mu.Unlock()
		return q.leaving(mine), nil
	}
	if mine.waiting.Len() >= q.most {
		q.mu.Unlock()
		return nil, ErrFull
	}
	t := &turn{ready: make(chan struct{})}
	place := mine.waiting.PushBack(t)
	q.waiting++
	q.mu.Unlock()

	late := time.NewTimer(q.wait)
	defer late.Stop()
	select {
	case <-t.ready:
		return q.leaving(mine), nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-late.C:
		err = ErrLate
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-t.ready: // its turn came at the same time
		return q.leaving(mine), nil
	default:
	}
	mine.waiting.Remove(place)
	q.waiting--
	return nil, err
}

// Load is how many requests run, and how many wait.
func (q *Queue) Load() (running, waiting int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running, q.waiting
}

// choose is the shortest queue of a client's hand.
func (q *Queue) choose(client string) *queue {
	value := maphash.String(q.seed, client)
	var dealt [handMax]uint64
	var best *queue
	for i := range q.hand {
		// The i-th card of those that are left, counted past the ones dealt, which
		// are kept in order.
		left := uint64(len(q.queues) - i) //nolint:gosec // the hand is no larger
		card := value % left
		value /= left
		at := 0
		for ; at < i && dealt[at] <= card; at++ {
			card++
		}
		copy(dealt[at+1:i+1], dealt[at:i])
		dealt[at] = card
		candidate := &q.queues[card]
		if best == nil || candidate.waiting.Len()+candidate.running < best.waiting.Len()+best.running {
			best = candidate
		}
	}
	return best
}

// start gives a queue a seat. A queue that was idle has saved up nothing.
func (q *Queue) start(mine *queue) {
	if mine.running == 0 && mine.waiting.Len() == 0 {
		mine.virtual = max(mine.virtual, q.virtual)
	}
	q.virtual = max(q.virtual, mine.virtual)
	mine.virtual += guess
	mine.running++
	q.running++
}

func (q *Queue) leaving(mine *queue) func() {
	began := time.Now()
	return func() { q.leave(mine, time.Since(began)) }
}

// leave gives a seat back, and to whose turn it is.
func (q *Queue) leave(mine *queue, took time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	if mine != nil {
		mine.running--
		mine.virtual += max(0, took-guess)
	}
	for q.running < q.seats && q.waiting > 0 {
		var next *queue
		for i := range q.queues {
			candidate := &q.queues[i]
			if candidate.waiting.Len() == 0 {
				continue
			}
			if next == nil || turnOf(candidate, q.virtual) < turnOf(next, q.virtual) {
				next = candidate
			}
		}
		t := next.waiting.Remove(next.waiting.Front()).(*turn)
		q.waiting--
		next.virtual = turnOf(next, q.virtual)
		q.start(next)
		close(t.ready)
	}
}

// turnOf is when it is a queue's turn: one that has been idle is no further back
// than whoever is served now.
func turnOf(c *queue, now time.Duration) time.Duration {
	if c.running == 0 {
		return max(c.virtual, now-guess)
	}
	return c.virtual
}
