package cri

import (
	"context"
	"sync"
	"time"
)

// leftoverFor is how long after a failed start a pod's cgroup is looked for:
// containerd may still be busy with what it was told to give up.
const leftoverFor = time.Minute

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

// sweep has remove called for each pod; what it could not remove is tried again
// by the next sweep.
func (l *leftovers) sweep(now time.Time, remove func(uid string) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for uid, since := range l.since {
		if err := remove(uid); err == nil && now.Sub(since) > leftoverFor {
			delete(l.since, uid)
		}
	}
}

// removeLeftovers does not wait for cgroups that are busy.
func (r *Runtime) removeLeftovers(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	r.leftovers.sweep(time.Now(), func(uid string) error { return removeCgroup(ctx, r.cgroupOf(uid)) })
}
