package operator

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/consensus/transport"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// placer pauses once and does not lead.
type placer struct {
	pause     *clusterv1.SchedulerPause
	algorithm string
	file      []byte
}

func (p *placer) Status(context.Context) (*clusterv1.SchedulerStatusResponse, error) {
	return nil, errNotLeader
}

func (p *placer) Pause(_ context.Context, reason, by string) (*clusterv1.SchedulerPause, bool, error) {
	already := p.pause != nil
	if !already {
		p.pause = &clusterv1.SchedulerPause{Reason: reason, By: by}
	}
	return p.pause, already, nil
}

func (p *placer) Resume(context.Context) (bool, error) {
	paused := p.pause != nil
	p.pause = nil
	return paused, nil
}

func (p *placer) Explain(_ context.Context, _, name string) (*clusterv1.ExplainPodResponse, error) {
	if name == "none" {
		return nil, ErrNoPod
	}
	return nil, errNotLeader
}

func (p *placer) SetAlgorithm(_ context.Context, algorithm string) error {
	p.algorithm = algorithm
	return nil
}

func (p *placer) Profiles(context.Context) ([]*clusterv1.SchedulerProfile, error) {
	return nil, errNotLeader
}

func (p *placer) ProfileFile(context.Context) ([]byte, error) { return p.file, nil }

func (p *placer) SetProfiles(_ context.Context, file []byte, dryRun bool) ([]*clusterv1.SchedulerProfile, error) {
	if string(file) == "wrong" {
		return nil, fmt.Errorf("%w: profiles[0]: it is wrong", ErrProfiles)
	}
	if !dryRun {
		p.file = file
	}
	return []*clusterv1.SchedulerProfile{{Name: "p", Change: "added"}}, nil
}

func TestSetsProfilesThatCanBeCarriedOut(t *testing.T) {
	p := &placer{}
	s := NewScheduler(p, func() View { return View{} }, failures)
	set := func(file string, dryRun bool) error {
		_, err := s.SetProfiles(t.Context(), &clusterv1.SetSchedulerProfilesRequest{File: []byte(file), DryRun: dryRun})
		return err
	}
	if err := set("wrong", false); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "profiles[0]") {
		t.Errorf("got %v, want InvalidArgument that names the field", err)
	}
	if err := set("dry", true); err != nil || p.file != nil {
		t.Errorf("got %v and %q, want nothing set", err, p.file)
	}
	if err := set("file", false); err != nil || string(p.file) != "file" {
		t.Errorf("got %v and %q, want the file", err, p.file)
	}
	if r, err := s.GetProfiles(t.Context(), &clusterv1.GetSchedulerProfilesRequest{}); err != nil || string(r.File) != "file" {
		t.Errorf("got %v, %v, want the file back", r, err)
	}
	if err := set("", false); err != nil || p.file != nil {
		t.Errorf("got %v and %q, want none", err, p.file)
	}
	if _, err := s.ListProfiles(t.Context(), &clusterv1.ListSchedulerProfilesRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("got %v, want the leader to be asked", err)
	}
}

func TestSetsAlgorithmsThatThereAre(t *testing.T) {
	p := &placer{}
	s := NewScheduler(p, func() View { return View{} }, failures)
	if _, err := s.SetAlgorithm(t.Context(), &clusterv1.SetSchedulerAlgorithmRequest{Algorithm: "magic"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("magic: got %v, want InvalidArgument", err)
	}
	if _, err := s.SetAlgorithm(t.Context(), &clusterv1.SetSchedulerAlgorithmRequest{Algorithm: "binpack"}); err != nil || p.algorithm != "binpack" {
		t.Errorf("got %v and %q, want binpack", err, p.algorithm)
	}
}

func (p *placer) Plan(_ context.Context, r *clusterv1.PlanPodsRequest) (*clusterv1.PlanPodsResponse, error) {
	if len(r.Objects) > 1 {
		return nil, ErrPlan
	}
	return nil, errNotLeader
}

func TestPauseSaysWhoAndWhy(t *testing.T) {
	s := NewScheduler(&placer{}, func() View { return View{Name: "c1", Leader: "c2", LeaderAddress: "a:2"} }, failures)
	ctx := transport.NewContext(t.Context(), transport.Caller{Name: "ann"})
	if _, err := s.Pause(ctx, &clusterv1.PauseSchedulerRequest{Reason: strings.Repeat("x", 1000)}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a novel for a reason: got %v", err)
	}
	for _, already := range []bool{false, true} {
		r, err := s.Pause(ctx, &clusterv1.PauseSchedulerRequest{Reason: "fire"})
		if err != nil || r.Already != already || r.Pause.By != "ann" || r.Pause.Reason != "fire" {
			t.Errorf("got %v, %v; want ann's pause, already %v", r, err, already)
		}
	}
	for _, already := range []bool{false, true} {
		if r, err := s.Resume(ctx, nil); err != nil || r.Already != already {
			t.Errorf("resume: got %v, %v; want already %v", r, err, already)
		}
	}
	for name, code := range map[string]codes.Code{"": codes.InvalidArgument, "none": codes.NotFound, "p": codes.FailedPrecondition} {
		if _, err := s.Explain(ctx, &clusterv1.ExplainPodRequest{Namespace: "default", Name: name}); status.Code(err) != code {
			t.Errorf("explain %q: got %v, want %v", name, err, code)
		}
	}
	for objects, code := range map[int]codes.Code{1: codes.FailedPrecondition, 2: codes.InvalidArgument} {
		if _, err := s.PlanPods(ctx, &clusterv1.PlanPodsRequest{Objects: make([]*clusterv1.PlanPodsObject, objects)}); status.Code(err) != code {
			t.Errorf("plan of %d objects: got %v, want %v", objects, err, code)
		}
	}
	if _, err := s.Status(ctx, nil); status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "c2 does, at a:2") {
		t.Errorf("status of a follower: got %v, want who leads", err)
	}
}

func (p *placer) Rehearse(context.Context, func(http.Handler, uint64) error) error {
	return errNotLeader
}
