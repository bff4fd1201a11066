package consensus

import "sync"

// progress is how far the log has been applied here, and who waits for it.
type progress struct {
	mu          sync.Mutex
	index, term uint64
	waiting     map[uint64]chan struct{} // by the index waited for
	termGrows   chan struct{}            // closed and replaced when term does
}

func newProgress() *progress {
	return &progress{waiting: map[uint64]chan struct{}{}, termGrows: make(chan struct{})}
}

// advance records that all up to index, whose entry has that term, is applied.
func (p *progress) advance(index, term uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.index = max(p.index, index)
	for at, reached := range p.waiting { // few: waiters of one index share a channel
		if at <= p.index {
			close(reached)
			delete(p.waiting, at)
		}
	}
	if term > p.term {
		p.term = term
		close(p.termGrows)
		p.termGrows = make(chan struct{})
	}
}

func (p *progress) applied() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.index
}

// reached returns a channel that is closed once index is applied.
func (p *progress) reached(index uint64) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.index >= index {
		return closedChannel
	}
	reached := p.waiting[index]
	if reached == nil {
		reached = make(chan struct{})
		p.waiting[index] = reached
	}
	return reached
}

// termAfter returns whether an entry of a later term has been applied, and
// otherwise a channel that is closed when the next term begins.
func (p *progress) termAfter(term uint64) (bool, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.term > term, p.termGrows
}

var closedChannel = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// watched is a value that can be waited on to change.
type watched[T comparable] struct {
	mu      sync.Mutex
	value   T
	changed chan struct{}
}

// get returns the value and a channel that is closed when it is replaced.
func (w *watched[T]) get() (T, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	return w.value, w.changed
}

func (w *watched[T]) set(value T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.replace(value)
}

// clear sets the zero value if the value is still this one.
func (w *watched[T]) clear(value T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.value == value {
		var zero T
		w.replace(zero)
	}
}

func (w *watched[T]) replace(value T) {
	if w.value == value {
		return
	}
	w.value = value
	if w.changed != nil {
		close(w.changed)
	}
	w.changed = nil
}
