package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/control/operator"
	"github.com/musterhq/muster/control/scheduler"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func (s scheduling) profileFile() scheduler.ProfileFile {
	return scheduler.ProfileFile{Store: s.server.store}
}

func (s scheduling) Profiles(ctx context.Context) (list []*clusterv1.SchedulerProfile, err error) {
	it, err := s.leading()
	if err != nil {
		return nil, err
	}
	profiles, err := it.Profiles(ctx)
	if errors.Is(err, scheduler.ErrEnded) {
		return nil, consensus.ErrNotLeader
	}
	for _, p := range profiles {
		message := &clusterv1.SchedulerProfile{Name: p.Name, Missing: p.Configuration == nil, Waiting: uint64(p.Waiting)}
		if p.Configuration != nil {
			message.Differences = p.Configuration.Differences()
		}
		list = append(list, message)
	}
	return list, err
}

func (s scheduling) ProfileFile(ctx context.Context) ([]byte, error) {
	if err := s.server.store.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	return s.profileFile().Get(), nil
}

func (s scheduling) SetProfiles(ctx context.Context, file []byte, dryRun bool) (list []*clusterv1.SchedulerProfile, err error) {
	after, err := scheduler.Configurations(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", operator.ErrProfiles, err)
	}
	was, err := s.ProfileFile(ctx)
	if err != nil {
		return nil, err
	}
	// A file that this version can't read is replaced all the same, by all that is in
	// the new one.
	before, _ := scheduler.Configurations(was)
	for _, c := range scheduler.ProfileChanges(before, after) {
		list = append(list, &clusterv1.SchedulerProfile{
			Name: c.Name, Missing: c.Kind == scheduler.ProfileRemoved, Differences: c.Differences, Change: string(c.Kind),
		})
	}
	if dryRun {
		return list, nil
	}
	return list, s.profileFile().Set(ctx, file)
}
