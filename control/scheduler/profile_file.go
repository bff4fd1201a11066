package scheduler

import (
	"cmp"
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/scheduler/configuration"
	"github.com/musterhq/muster/control/store"
)

// profilesRecord is where the store keeps the file of profiles, as it was written.
const profilesRecord = "scheduler-profiles"

// ProfileFile sets the cluster's profiles, whoever leads. Any control node may use
// it; it holds from the leader's next decision on and moves no pod.
type ProfileFile struct{ Store *store.Store }

// Get is the file that this replica knows, nil if there is none.
func (f ProfileFile) Get() []byte {
	file, _, err := f.Store.System().Get(profilesRecord)
	if err != nil {
		return nil
	}
	return file
}

// Set keeps a file that configuration can read; nil for none.
func (f ProfileFile) Set(ctx context.Context, file []byte) error {
	if file == nil {
		err := f.Store.System().Delete(ctx, profilesRecord, 0)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	}
	_, err := f.Store.System().Create(ctx, profilesRecord, file)
	if errors.Is(err, store.ErrExists) {
		_, err = f.Store.System().Update(ctx, profilesRecord, file, 0)
	}
	return err
}

// Configurations are what a file says; of no file, default-scheduler alone.
func Configurations(file []byte) ([]configuration.Profile, error) {
	if file == nil {
		return []configuration.Profile{configuration.Standard(corev1.DefaultSchedulerName)}, nil
	}
	return configuration.Read(file)
}

// ProfileChange is what becomes of a profile when a file takes another's place.
type ProfileChange struct {
	Name        string
	Kind        ProfileChangeKind
	Differences []string // from the standard profile, of what it will be
}

// ProfileChangeKind is how a profile changes.
type ProfileChangeKind string

const (
	ProfileAdded     ProfileChangeKind = "added"
	ProfileChanged   ProfileChangeKind = "changed"
	ProfileRemoved   ProfileChangeKind = "removed"
	ProfileUnchanged ProfileChangeKind = "unchanged"
)

// ProfileChanges compares configurations, by name.
func ProfileChanges(before, after []configuration.Profile) (changes []ProfileChange) {
	find := func(list []configuration.Profile, name string) *configuration.Profile {
		if i := slices.IndexFunc(list, func(p configuration.Profile) bool { return p.SchedulerName == name }); i >= 0 {
			return &list[i]
		}
		return nil
	}
	for i := range after {
		now := &after[i]
		change := ProfileChange{Name: now.SchedulerName, Kind: ProfileUnchanged, Differences: now.Differences()}
		switch was := find(before, now.SchedulerName); {
		case was == nil:
			change.Kind = ProfileAdded
		case was.Key() != now.Key():
			change.Kind = ProfileChanged
		}
		changes = append(changes, change)
	}
	for i := range before {
		if find(after, before[i].SchedulerName) == nil {
			changes = append(changes, ProfileChange{Name: before[i].SchedulerName, Kind: ProfileRemoved})
		}
	}
	return changes
}

// profilesSeen are the profiles as the decider last read them.
type profilesSeen struct {
	revision uint64 // of the record; 0: there was none
	profiles *Profiles
}

// readProfiles looks at the store, and reads the file only if it is another. A file
// that can't be read, as a later version may have written it, changes nothing.
func (s *Scheduler) readProfiles(seen *profilesSeen) *Profiles {
	file, revision, err := s.registry.Store().System().Get(profilesRecord)
	if err != nil {
		file, revision = nil, 0
	}
	if seen.profiles != nil && seen.revision == revision {
		return seen.profiles
	}
	before := seen.profiles
	if before == nil {
		before = standard
	}
	seen.revision, seen.profiles = revision, before
	list, err := Configurations(file)
	if err != nil {
		s.log.Error("the profiles of the scheduler can't be read, earlier ones stay", "record", "muster/"+profilesRecord, "err", err)
		return before
	}
	if file == nil {
		seen.profiles = standard
	} else {
		seen.profiles = NewProfiles(list, before)
	}
	return seen.profiles
}

// ProfileStatus is a profile and the pods that wait by it. Without a configuration
// it is a scheduler that pods name and that has none.
type ProfileStatus struct {
	Name          string
	Configuration *configuration.Profile
	Waiting       int
}

// Profiles says which there are, in order of their names, and how many pods wait for
// a node by each.
func (s *Scheduler) Profiles(ctx context.Context) (list []ProfileStatus, err error) {
	err = s.ask(ctx, func(c *core) { list = c.profileStatus() })
	return list, err
}

func (c *core) profileStatus() (list []ProfileStatus) {
	waiting := make(map[string]int)
	for _, e := range c.queue.entries {
		waiting[e.pod.Spec.SchedulerName]++
	}
	for _, pod := range c.foreign {
		waiting[pod.Spec.SchedulerName]++
	}
	for name, p := range c.cluster.profiles.of {
		list = append(list, ProfileStatus{Name: name, Configuration: &p.from, Waiting: waiting[name]})
		delete(waiting, name)
	}
	for name, n := range waiting {
		list = append(list, ProfileStatus{Name: name, Waiting: n})
	}
	slices.SortFunc(list, func(a, b ProfileStatus) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
