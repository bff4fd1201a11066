package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// A directory that could not be deleted is tried again after a second, twice as
// long each time.
const (
	reclaimFirst = time.Second
	reclaimMost  = time.Minute
)

// reclaims deletes the directories of volumes that the control plane gives up, one
// at a time. It holds what it was told and has not done: it is told again in the next
// session, and by the next agent's.
type reclaims struct {
	log    *slog.Logger
	remove func(path string) error
	// answer tells the control plane; "" that the directory is gone.
	answer func(name, uid, failure string)

	arrived chan struct{} // capacity 1

	mu   sync.Mutex
	left map[string]*reclaim // by uid
}

type reclaim struct {
	*agentv1.ReclaimVolume
	pause time.Duration
	at    time.Time // of the next attempt
	told  string    // what the control plane knows of the last
}

func newReclaims(log *slog.Logger, remove func(path string) error, answer func(name, uid, failure string)) *reclaims {
	return &reclaims{log: log, remove: remove, answer: answer, arrived: make(chan struct{}, 1), left: map[string]*reclaim{}}
}

// take never blocks.
func (r *reclaims) take(m *agentv1.ReclaimVolume) {
	r.mu.Lock()
	r.left[m.Uid] = &reclaim{ReclaimVolume: m}
	r.mu.Unlock()
	select {
	case r.arrived <- struct{}{}:
	default:
	}
}

// Run deletes until ctx ends.
func (r *reclaims) Run(ctx context.Context) error {
	for {
		var wait <-chan time.Time
		due, next := r.due(time.Now())
		for _, task := range due {
			r.try(task)
		}
		if len(due) > 0 {
			continue
		}
		if !next.IsZero() {
			wait = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.arrived:
		case <-wait:
		}
	}
}

// due are what to try now, or when there is something next.
func (r *reclaims) due(now time.Time) (due []*reclaim, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, task := range r.left {
		switch {
		case !task.at.After(now):
			due = append(due, task)
		case next.IsZero() || task.at.Before(next):
			next = task.at
		}
	}
	return due, next
}

func (r *reclaims) try(task *reclaim) {
	err := r.remove(task.Path)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		if r.left[task.Uid] == task {
			delete(r.left, task.Uid)
		}
		r.log.Info("directory of a volume deleted", "volume", task.Name, "path", task.Path)
		r.answer(task.Name, task.Uid, "")
		return
	}
	task.pause = min(max(2*task.pause, reclaimFirst), reclaimMost)
	task.at = time.Now().Add(task.pause)
	if task.told != err.Error() {
		task.told = err.Error()
		r.log.Warn("could not delete the directory of a volume, trying again", "volume", task.Name, "path", task.Path, "err", err)
		r.answer(task.Name, task.Uid, task.told)
	}
}
