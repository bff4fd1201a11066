package cri

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// leftoverFor is how long after a failed start a pod's cgroup is looked for:
	// containerd may still be busy with what it was told to give up.
	leftoverFor = time.Minute
	// undoneWithin is what containerd gets to undo it, before what is still in the
	// cgroup is killed.
	undoneWithin = 5 * time.Second
)

// leftovers remembers the pods of which no sandbox came to be. Their cgroups are
// made before, and no sandbox is removed with which they would go. Bounded by
// the starts that fail within leftoverFor.
type leftovers struct {
	mu    sync.Mutex
	since map[string]time.Time // by the pod's uid
}

// begin says that a sandbox is being made: the cgroup is needed.
func (l *leftovers) begin(uid string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.since, uid)
}

func (l *leftovers) failed(uid string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since == nil {
		l.since = map[string]time.Time{}
	}
	l.since[uid] = now
}

// sweep has remove called for each pod, with how long ago its start failed; what
// it could not remove is tried again by the next sweep.
func (l *leftovers) sweep(now time.Time, remove func(uid string, ago time.Duration) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for uid, since := range l.since {
		if err := remove(uid, now.Sub(since)); err == nil && now.Sub(since) > leftoverFor {
			delete(l.since, uid)
		}
	}
}

// removeLeftovers does not wait for cgroups that are busy.
func (r *Runtime) removeLeftovers(ctx context.Context) {
	r.leftovers.sweep(time.Now(), func(uid string, ago time.Duration) error {
		err := tryRemoveCgroup(ctx, r.cgroupOf(uid), 0)
		if errors.Is(err, unix.EBUSY) && ago > undoneWithin {
			return errors.Join(err, killCgroup(r.cgroupOf(uid)))
		}
		return err
	})
}
