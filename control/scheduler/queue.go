package scheduler

import (
	"cmp"
	"container/heap"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/google/btree"
	"k8s.io/apimachinery/pkg/types"
)

// Back-off after a decision that could not be carried out (the write failed).
// A pod that fits nowhere does not back off: it is parked until something
// changes that helps it.
const (
	backOffFirst = 100 * time.Millisecond
	backOffMost  = 10 * time.Second
)

// queue holds every pod that waits for a node, each in one of three places:
// ready to be looked at, backing off, or parked because it fits nowhere. It
// holds no more than there are pods, and belongs to one goroutine.
type queue struct {
	entries map[types.UID]*entry
	ready   readyHeap
	later   laterHeap
	parked  ordered
	classes map[classKey]*parkedClass
	index   *index
	seq     uint64
	// spare are nodes of trees that have shrunk.
	spare *btree.FreeListG[*entry]
}

// ordered are entries by priority, then by arrival. A hundred thousand may be parked,
// and come and go one by one.
type ordered struct{ tree *btree.BTreeG[*entry] }

// orderedDegree is how far the trees branch: small ones are one slice.
const orderedDegree = 32

func (o ordered) len() int { return o.tree.Len() }
func (o ordered) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) { o.tree.Ascend(yield) }
}
func (o ordered) insert(e *entry) { o.tree.ReplaceOrInsert(e) }
func (o ordered) remove(e *entry) { o.tree.Delete(e) }

func (q *queue) newOrdered() ordered {
	return ordered{btree.NewWithFreeListG(orderedDegree, (*entry).before, q.spare)}
}

// classKey is the same for pods that filters treat alike: what they ask, and who
// they are if some placed pod may be against it.
type classKey struct {
	asks string
	kin  *kin // nil: nobody is
}

func (p *podInfo) classKey() classKey {
	k := classKey{asks: p.class}
	if p.kin.barring > 0 {
		k.kin = p.kin
	}
	return k
}

// parkedClass are the parked entries of a class.
type parkedClass struct {
	key     classKey
	entries ordered  // never none
	tallies []*tally // of its rules, pinned
}

// entry is a pod in the queue.
type entry struct {
	*podInfo
	seq      uint64 // order of arrival
	place    entryPlace
	index    int // in its heap
	failures int // of writes, in a row
	retryAt  time.Time
	// wokenBy is the node for whose sake a parked pod was made ready, "" for none.
	wokenBy string
	// wokenAs is the class of which it was made ready first, for the sake of other
	// pods; the zero key for none.
	wokenAs  classKey
	parkedIn *parkedClass
}

type entryPlace int

const (
	inNone entryPlace = iota // being decided or bound
	inReady
	inLater
	inParked
)

func newQueue(x *index) *queue {
	q := &queue{
		entries: make(map[types.UID]*entry), classes: make(map[classKey]*parkedClass), index: x,
		spare: btree.NewFreeListG[*entry](btree.DefaultFreeListSize),
	}
	q.parked = q.newOrdered()
	return q
}

// before orders by priority, then by arrival.
func (e *entry) before(o *entry) bool { return compareEntries(e, o) < 0 }

func compareEntries(a, b *entry) int {
	if c := cmp.Compare(b.priority, a.priority); c != 0 {
		return c
	}
	return cmp.Compare(a.seq, b.seq)
}

// set adds a pod, or takes over its changed state. A parked pod stays parked
// unless what it asks for has changed.
func (q *queue) set(p *podInfo) {
	e := q.entries[p.pod.UID]
	if e == nil {
		q.seq++
		e = &entry{podInfo: p, seq: q.seq}
		q.entries[p.pod.UID] = e
		q.put(e, inReady)
		return
	}
	place := e.place
	changed := e.class != p.class || e.priority != p.priority || !maps.Equal(e.pod.Labels, p.pod.Labels)
	q.take(e)
	e.podInfo = p
	if changed && place == inParked {
		place = inReady
	}
	q.put(e, place)
}

// remove drops a pod and returns its entry, nil when it was not there.
func (q *queue) remove(uid types.UID) *entry {
	e := q.entries[uid]
	if e != nil {
		q.take(e)
		delete(q.entries, uid)
	}
	return e
}

// pop takes the next ready entry out; it stays known until remove, park or retry.
func (q *queue) pop() *entry {
	if len(q.ready) == 0 {
		return nil
	}
	e := q.ready[0]
	q.take(e)
	return e
}

// park puts a popped entry aside until wake.
func (q *queue) park(e *entry) {
	q.put(e, inParked)
}

// wake makes a parked entry ready for the sake of a node.
func (q *queue) wake(e *entry, by string) {
	q.take(e)
	e.wokenBy = by
	q.put(e, inReady)
}

// wakeAs makes the first of a class ready for the sake of other pods.
func (q *queue) wakeAs(e *entry, class classKey) {
	q.take(e)
	e.wokenAs = class
	q.put(e, inReady)
}

// part moves parked kin, of whom it has begun to matter who they are, to classes of
// their own.
func (q *queue) part(barred []*kin) {
	var moved []*entry
	for e := range q.parked.all() {
		if e.parkedIn.key.kin == nil && slices.Contains(barred, e.kin) {
			moved = append(moved, e)
		}
	}
	for _, e := range moved {
		q.take(e)
		q.put(e, inParked)
	}
}

// retry makes an entry ready again after a pause that grows with its failures.
func (q *queue) retry(e *entry, now time.Time) {
	pause := min(backOffFirst<<min(e.failures, 10), backOffMost)
	e.failures++
	e.retryAt = now.Add(pause)
	q.put(e, inLater)
}

// due makes the entries ready whose pause is over, and says when the next one's is.
func (q *queue) due(now time.Time) (next time.Time, ok bool) {
	for len(q.later) > 0 {
		e := q.later[0]
		if e.retryAt.After(now) {
			return e.retryAt, true
		}
		q.take(e)
		q.put(e, inReady)
	}
	return time.Time{}, false
}

func (q *queue) put(e *entry, place entryPlace) {
	e.place = place
	switch place {
	case inReady:
		heap.Push(&q.ready, e)
	case inLater:
		heap.Push(&q.later, e)
	case inParked:
		q.parked.insert(e)
		q.index.know(e.podInfo)
		q.index.pinKin(e.kin, 1)
		key := e.classKey()
		class := q.classes[key]
		if class == nil {
			class = &parkedClass{key: key, entries: q.newOrdered()}
			q.classes[key] = class
			q.index.park(class, e.podInfo)
		}
		class.entries.insert(e)
		e.parkedIn = class
	}
}

func (q *queue) take(e *entry) {
	switch e.place {
	case inReady:
		heap.Remove(&q.ready, e.index)
	case inLater:
		heap.Remove(&q.later, e.index)
	case inParked:
		q.parked.remove(e)
		class := e.parkedIn
		e.parkedIn = nil
		class.entries.remove(e)
		if class.entries.len() == 0 {
			delete(q.classes, class.key)
			q.index.unpark(class)
		}
		q.index.pinKin(e.kin, -1)
	}
	e.place = inNone
}

// readyHeap is ordered by priority and arrival.
type readyHeap []*entry

func (h readyHeap) Len() int           { return len(h) }
func (h readyHeap) Less(i, j int) bool { return h[i].before(h[j]) }
func (h readyHeap) Swap(i, j int)      { swapEntries(h, i, j) }
func (h *readyHeap) Push(x any)        { pushEntry((*[]*entry)(h), x) }
func (h *readyHeap) Pop() any          { return popEntry((*[]*entry)(h)) }

// laterHeap is ordered by when the pause is over.
type laterHeap []*entry

func (h laterHeap) Len() int           { return len(h) }
func (h laterHeap) Less(i, j int) bool { return h[i].retryAt.Before(h[j].retryAt) }
func (h laterHeap) Swap(i, j int)      { swapEntries(h, i, j) }
func (h *laterHeap) Push(x any)        { pushEntry((*[]*entry)(h), x) }
func (h *laterHeap) Pop() any          { return popEntry((*[]*entry)(h)) }

func swapEntries(h []*entry, i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func pushEntry(h *[]*entry, x any) {
	e := x.(*entry)
	e.index = len(*h)
	*h = append(*h, e)
}

func popEntry(h *[]*entry) any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
