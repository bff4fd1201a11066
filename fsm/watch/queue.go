package watch

import "sort"

// queue is events in ascending order of revisions, in chunks: it neither copies
// when it grows nor keeps room when it has shrunk. An event has a number that
// is one more than that of the event before and stays while others go.
type queue struct {
	chunks []*chunk // all full but the last
	first  uint64   // number of the oldest event
	head   int      // its place in the first chunk
	count  int
}

const chunkLen = 512 // 12 KiB

type chunk [chunkLen]Event

func (q *queue) len() int    { return q.count }
func (q *queue) end() uint64 { return q.first + uint64(q.count) }

// at returns the event with a number from first up to and without end.
func (q *queue) at(number uint64) Event {
	place := q.head + int(number-q.first)
	return q.chunks[place/chunkLen][place%chunkLen]
}

func (q *queue) push(e Event) {
	place := q.head + q.count
	if place == len(q.chunks)*chunkLen {
		q.chunks = append(q.chunks, new(chunk))
	}
	q.chunks[place/chunkLen][place%chunkLen] = e
	q.count++
}

func (q *queue) pop() Event {
	e := q.chunks[0][q.head]
	q.chunks[0][q.head] = Event{}
	q.first++
	q.head++
	q.count--
	if q.head == chunkLen || q.count == 0 {
		q.chunks[0] = nil
		q.chunks, q.head = q.chunks[1:], 0
	}
	if q.count == 0 {
		q.chunks = nil
	}
	return e
}

// after is the number of the first event above revision, end if there is none.
func (q *queue) after(revision uint64) uint64 {
	i := sort.Search(q.count, func(i int) bool { return q.at(q.first+uint64(i)).Revision > revision })
	return q.first + uint64(i)
}

// file is the events of one table, as their numbers in the queue: 4 bytes for
// each. A queue is far shorter than what 32 bits count, so that the lower ones
// tell any two of its numbers apart.
type file struct {
	numbers []uint32
	head    int
	dropped uint64 // the newest revision that was popped
}

func (f *file) len() int           { return len(f.numbers) - f.head }
func (f *file) push(number uint64) { f.numbers = append(f.numbers, uint32(number)) }

func (f *file) pop(revision uint64) {
	f.head++
	f.dropped = revision
	switch n := f.len(); {
	case n == 0:
		f.numbers, f.head = nil, 0
	case f.head >= 64 && f.head >= n:
		f.numbers, f.head = append(make([]uint32, 0, n+n/4), f.numbers[f.head:]...), 0
	}
}

// at returns the file's i-th event.
func (f *file) at(q *queue, i int) Event {
	return q.at(q.first + uint64(f.numbers[f.head+i]-uint32(q.first)))
}

// after is the index of the file's first event above revision.
func (f *file) after(q *queue, revision uint64) int {
	return sort.Search(f.len(), func(i int) bool { return f.at(q, i).Revision > revision })
}
