package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/musterhq/muster/control/store"
)

// pauseRecord is where the store keeps that scheduling is paused. It is not
// there while it is not.
const pauseRecord = "scheduler-pause"

// Pause is that pods are given to no node, on purpose.
type Pause struct {
	Reason string    `json:"reason,omitempty"` // what whoever did it said
	By     string    `json:"by,omitempty"`
	Since  time.Time `json:"since"`
}

// message is what waiting pods say of it. It is the same for all of them.
func (p *Pause) message() string {
	why := ""
	if p.Reason != "" {
		why = ": " + p.Reason
	}
	return fmt.Sprintf("scheduling has been paused since %s%s (muster operator scheduler resume ends it)", p.Since.UTC().Format(time.RFC3339), why)
}

// Brake stops the scheduler and lets it go, whoever leads. Any control node may
// use it; nil is returned by those that ask whether it is paused when it is not.
type Brake struct{ Store *store.Store }

// Paused says what this replica knows. A record that can't be read is a pause:
// somebody wanted one.
func (b Brake) Paused() *Pause {
	value, _, err := b.Store.System().Get(pauseRecord)
	if err != nil {
		return nil
	}
	var p Pause
	if err := json.Unmarshal(value, &p); err != nil {
		p.Reason = fmt.Sprintf("record muster/%s: %v", pauseRecord, err)
	}
	return &p
}

// Pause pauses. What is decided but not yet written is given up; a batch that is
// being written when the pause is stored still takes effect. When it is paused
// already, that pause stays as it is and is returned with true.
func (b Brake) Pause(ctx context.Context, p Pause) (*Pause, bool, error) {
	value, err := json.Marshal(p)
	if err != nil {
		return nil, false, err
	}
	_, err = b.Store.System().Create(ctx, pauseRecord, value)
	if err == nil {
		return &p, false, nil
	}
	if !errors.Is(err, store.ErrExists) {
		return nil, false, err
	}
	if err := b.Store.ReadBarrier(ctx); err != nil {
		return nil, false, err
	}
	if earlier := b.Paused(); earlier != nil {
		return earlier, true, nil
	}
	return nil, false, err
}

// Resume ends the pause; false when there was none.
func (b Brake) Resume(ctx context.Context) (bool, error) {
	err := b.Store.System().Delete(ctx, pauseRecord, 0)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// settingsRecords is how the records of all settings begin: pause, algorithm, profiles.
const settingsRecords = "scheduler-"

// followSettings wakes the decider whenever a setting was touched, until ctx ends.
// What they are the decider looks up itself, so that it knows of what was
// stored before a pod was.
func (s *Scheduler) followSettings(ctx context.Context) error {
	return s.registry.Store().System().Follow(ctx, settingsRecords, s.inbox.ring)
}

// pauseToldAfter is how long pods may wait for the brake before they say so, as
// one that is let go at once concerns nobody.
const pauseToldAfter = 2 * time.Second

// held is what the decider has seen of the brake.
type held struct {
	pause  *Pause
	tellAt time.Time // when pods will be told; zero: when something changes
}

// holds looks at the brake, and says whether it is on. While it is, decisions
// that are not being written are given up, and pods are told in a while.
func (s *Scheduler) holds(core *core, h *held, ready *[]decision, now time.Time) bool {
	before := h.pause
	h.pause = Brake{s.registry.Store()}.Paused()
	switch {
	case h.pause == nil && before != nil:
		s.log.Info("scheduling resumed")
		s.reports.withdraw(reasonPaused)
		*h = held{}
	case h.pause != nil && before == nil:
		s.log.Info("scheduling paused", "reason", h.pause.Reason, "by", h.pause.By, "since", h.pause.Since)
	}
	if h.pause == nil {
		return false
	}
	for _, d := range *ready {
		core.giveUp(d)
	}
	*ready = nil
	switch {
	case h.tellAt.IsZero():
		h.tellAt = now.Add(pauseToldAfter)
	case !now.Before(h.tellAt):
		for _, e := range core.queue.ready {
			s.reports.tell(e.pod, report{reason: reasonPaused, message: h.pause.message()})
		}
		h.tellAt = time.Time{}
	}
	return true
}
