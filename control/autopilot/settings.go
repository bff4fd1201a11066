package autopilot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/control/store"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

const settingsName = "autopilot"

// Settings are the same on all control nodes.
type Settings struct {
	CleanupDeadServers bool
	DeadServerAfter    time.Duration
	MinVoters          int
	StableAfter        time.Duration
}

// Defaults hold where nothing was set. Ten minutes are longer than a server
// takes to boot, firmware and file system checks included, and shorter than it
// takes to notice that two of five are gone. Fewer than three voters survive
// the loss of none, so removing one makes nothing better.
var Defaults = Settings{
	CleanupDeadServers: true,
	DeadServerAfter:    10 * time.Minute,
	MinVoters:          3,
	StableAfter:        2 * time.Second,
}

const (
	deadServerAfterMin = time.Second
	stableAfterMax     = time.Hour
	minVotersMax       = 99
)

// ErrSettings: a setting is out of its range. The message names it.
var ErrSettings = errors.New("settings")

// record is Settings as the store keeps them; what is absent is the default.
type record struct {
	CleanupDeadServers     *bool   `json:"cleanupDeadServers,omitempty"`
	DeadServerAfterSeconds *int64  `json:"deadServerAfterSeconds,omitempty"`
	MinVoters              *uint32 `json:"minVoters,omitempty"`
	StableAfterSeconds     *int64  `json:"stableAfterSeconds,omitempty"`
}

func (r record) over(s Settings) Settings {
	if r.CleanupDeadServers != nil {
		s.CleanupDeadServers = *r.CleanupDeadServers
	}
	if r.DeadServerAfterSeconds != nil {
		s.DeadServerAfter = time.Duration(*r.DeadServerAfterSeconds) * time.Second
	}
	if r.MinVoters != nil {
		s.MinVoters = int(*r.MinVoters)
	}
	if r.StableAfterSeconds != nil {
		s.StableAfter = time.Duration(*r.StableAfterSeconds) * time.Second
	}
	return s
}

func (r record) check() error {
	if v := r.DeadServerAfterSeconds; v != nil && (*v < int64(deadServerAfterMin/time.Second) || *v > int64(1000*24*time.Hour/time.Second)) {
		return fmt.Errorf("%w: dead-server-after: %d s is not between 1 s and 1000 days", ErrSettings, *v)
	}
	if v := r.MinVoters; v != nil && (*v < 1 || *v > minVotersMax) {
		return fmt.Errorf("%w: min-voters: %d is not between 1 and %d", ErrSettings, *v, minVotersMax)
	}
	if v := r.StableAfterSeconds; v != nil && (*v < 0 || *v > int64(stableAfterMax/time.Second)) {
		return fmt.Errorf("%w: stable-after: %d s is not between 0 and an hour", ErrSettings, *v)
	}
	return nil
}

// settings are those that this replica knows.
func (a *Autopilot) settings() Settings {
	r, _, err := a.readSettings()
	if err != nil {
		return Defaults
	}
	return r.over(Defaults)
}

func (a *Autopilot) readSettings() (r record, revision uint64, err error) {
	value, revision, err := a.Store.System().Get(settingsName)
	if err != nil {
		return r, 0, err
	}
	if err := json.Unmarshal(value, &r); err != nil {
		return r, revision, fmt.Errorf("record muster/%s: %w", settingsName, err)
	}
	return r, revision, nil
}

// settingsWait bounds how long Settings waits for the newest.
const settingsWait = time.Second

// Settings are the cluster's; without a leader those that this replica has.
func (a *Autopilot) Settings(ctx context.Context) *clusterv1.AutopilotSettings {
	ctx, cancel := context.WithTimeout(ctx, settingsWait)
	defer cancel()
	_ = a.Store.ReadBarrier(ctx)
	return a.settings().message()
}

func (s Settings) message() *clusterv1.AutopilotSettings {
	return &clusterv1.AutopilotSettings{
		CleanupDeadServers:     proto.Bool(s.CleanupDeadServers),
		DeadServerAfterSeconds: proto.Int64(int64(s.DeadServerAfter / time.Second)),
		MinVoters:              proto.Uint32(uint32(s.MinVoters)),
		StableAfterSeconds:     proto.Int64(int64(s.StableAfter / time.Second)),
	}
}

// settingsTries is how often SetSettings begins anew when another was quicker.
const settingsTries = 5

// SetSettings changes what is given and answers all. Any control node does.
func (a *Autopilot) SetSettings(ctx context.Context, given *clusterv1.AutopilotSettings) (*clusterv1.AutopilotSettings, error) {
	for range settingsTries {
		if err := a.Store.ReadBarrier(ctx); err != nil {
			return nil, err
		}
		r, revision, err := a.readSettings()
		if err != nil && !errors.Is(err, store.ErrNotFound) && revision == 0 {
			return nil, err
		}
		if given.CleanupDeadServers != nil {
			r.CleanupDeadServers = given.CleanupDeadServers
		}
		if given.DeadServerAfterSeconds != nil {
			r.DeadServerAfterSeconds = given.DeadServerAfterSeconds
		}
		if given.MinVoters != nil {
			r.MinVoters = given.MinVoters
		}
		if given.StableAfterSeconds != nil {
			r.StableAfterSeconds = given.StableAfterSeconds
		}
		if err := r.check(); err != nil {
			return nil, err
		}
		value, err := json.Marshal(r)
		if err != nil {
			return nil, err
		}
		if revision == 0 {
			_, err = a.Store.System().Create(ctx, settingsName, value)
		} else {
			_, err = a.Store.System().Update(ctx, settingsName, value, revision)
		}
		if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return r.over(Defaults).message(), nil
	}
	return nil, fmt.Errorf("%w: somebody else changes them all the time", store.ErrConflict)
}

// StableAfter is how long a server must have been well before it votes
// (consensus.Config). The first three do not wait: a cluster that is being made
// has nothing to lose yet, and survives the loss of nobody before it has them.
func (a *Autopilot) StableAfter(voters int) time.Duration {
	if voters < 3 {
		return 0
	}
	return a.settings().StableAfter
}
