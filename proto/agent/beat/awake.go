package beat

import (
	"sync"
	"time"
)

// Awake is a clock that stands still while this process does: silence that is
// measured with it is the others'. A machine that is too busy to run this process, or
// a process that is stopped, hears nothing of anybody; what had come meanwhile it
// hears only when it goes on.
type Awake struct {
	mu      sync.Mutex
	reading time.Duration // at the last tick
	last    time.Time
	most    time.Duration // what may pass until the next
}

// NewAwake begins at zero. The first tick is due within so long.
func NewAwake(due time.Duration) *Awake { return &Awake{last: time.Now(), most: due} }

// Now is the reading.
func (a *Awake) Now() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now(time.Now())
}

func (a *Awake) now(at time.Time) time.Duration { return a.reading + min(at.Sub(a.last), a.most) }

// Tick is called by a goroutine that shall run now, and again within due. By what it
// is late, the clock has stood still.
func (a *Awake) Tick(due time.Duration) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	a.reading = a.now(now)
	a.last, a.most = now, due
	return a.reading
}
