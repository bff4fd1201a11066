package controllertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/control/store/storetest"
)

// ErrLost is what writers of a dying leader are told.
var ErrLost = errors.New("leadership lost while committing")

// dying is a log that breaks at a chosen write: the write takes effect or not,
// the writer gets an error, and every later write of the same term fails.
type dying struct {
	*storetest.Log
	mu     sync.Mutex
	left   int  // writes until it breaks
	effect bool // whether the breaking write takes effect
	broken chan struct{}
}

func (f *dying) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.left > 0:
		f.left--
		return f.Log.Propose(ctx, cmd)
	case f.left == 0:
		f.left--
		close(f.broken)
		if f.effect {
			if _, err := f.Log.Propose(ctx, cmd); err != nil {
				return nil, err
			}
		}
	}
	return nil, ErrLost
}

// LeaderDiesAtAnyWrite tests that it does not matter at which of its writes a
// leader dies, the first writes of them, with that write committed or not. For each,
// given makes what there is before, and may run something that lives through both
// terms; lead runs what is tested, in the term that dies and in the next; then says
// what must be so in the end, once nothing is written any more.
func LeaderDiesAtAnyWrite(t *testing.T, writes int, given func(t *testing.T, user *Term), lead func(*Term), then func(t *testing.T, m *Term)) {
	for at := range writes {
		for _, effect := range []bool{false, true} {
			t.Run(fmt.Sprintf("write %d, effect %v", at, effect), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, log, _ := storetest.Open(t)
					given(t, Begin(t, s))
					f := &dying{Log: log, left: at, effect: effect, broken: make(chan struct{})}
					m := Resume(t, s.WithLog(f))
					lead(m)
					select {
					case <-f.broken:
					case <-time.After(2 * time.Second): // it had fewer writes to do
					}
					m.End()

					next := Resume(t, s)
					lead(next)
					next.Settled(time.Second)
					then(t, next)
				})
			})
		}
	}
}
