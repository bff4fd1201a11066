package operator

import (
	"context"
	"errors"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/consensus/transport"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// reasonMost bounds what may be said about a pause: each pod that waits says it
// again.
const reasonMost = 256

// Scheduling is what gives pods to nodes, as operators ask for it.
type Scheduling interface {
	// Status only works on the leader.
	Status(ctx context.Context) (*clusterv1.SchedulerStatusResponse, error)
	// Pause answers the pause that was there before, if one was, and true.
	Pause(ctx context.Context, reason, by string) (pause *clusterv1.SchedulerPause, already bool, err error)
	// Resume is false when there was no pause.
	Resume(ctx context.Context) (bool, error)
	// Explain only works on the leader. ErrNoPod when there is no such pod.
	Explain(ctx context.Context, namespace, name string) (*clusterv1.ExplainPodResponse, error)
	// SetAlgorithm is asked for an algorithm that there is.
	SetAlgorithm(ctx context.Context, algorithm string) error
	// Profiles only works on the leader.
	Profiles(ctx context.Context) ([]*clusterv1.SchedulerProfile, error)
	// ProfileFile is the file of profiles, nil when there is none.
	ProfileFile(ctx context.Context) ([]byte, error)
	// SetProfiles answers what changes, and unless dryRun has the file hold; nil is
	// none. ErrProfiles when the file is wrong.
	SetProfiles(ctx context.Context, file []byte, dryRun bool) ([]*clusterv1.SchedulerProfile, error)
	// Plan only works on the leader. ErrPlan when the request is wrong.
	Plan(ctx context.Context, r *clusterv1.PlanPodsRequest) (*clusterv1.PlanPodsResponse, error)
	// Rehearse only works on the leader. The API is that of a copy of the cluster as it
	// is at the revision, which ends when serve returns, and stores dry runs.
	Rehearse(ctx context.Context, serve func(api http.Handler, revision uint64) error) error
}

// ErrPlan says that what is to be planned makes no sense. The message says why.
var ErrPlan = errors.New("plan")

// ErrProfiles says that a file of profiles can't be carried out. The message says why.
var ErrProfiles = errors.New("profiles")

// ErrNoPod says that there is no such pod.
var ErrNoPod = errors.New("no such pod")

// Scheduler is cluster.v1.Scheduler on one control node.
type Scheduler struct {
	clusterv1.UnimplementedSchedulerServer
	scheduling Scheduling
	view       func() View
	failures   Failures
	rehearsals chan struct{} // a place for each that may be under way
}

// NewScheduler makes the service; view must not block. FAILED_PRECONDITION among
// failures is taken for "this node does not lead".
func NewScheduler(scheduling Scheduling, view func() View, failures Failures) *Scheduler {
	return &Scheduler{scheduling: scheduling, view: view, failures: failures, rehearsals: make(chan struct{}, rehearsalsMost)}
}

// Register adds the service to a gRPC server.
func (s *Scheduler) Register(r grpc.ServiceRegistrar) { clusterv1.RegisterSchedulerServer(r, s) }

// Status says whether pods are given to nodes and how many wait.
func (s *Scheduler) Status(ctx context.Context, _ *clusterv1.SchedulerStatusRequest) (*clusterv1.SchedulerStatusResponse, error) {
	response, err := s.scheduling.Status(ctx)
	if err != nil {
		return nil, s.failed(err)
	}
	return response, nil
}

// Pause has no pod go to any node until Resume.
func (s *Scheduler) Pause(ctx context.Context, r *clusterv1.PauseSchedulerRequest) (*clusterv1.PauseSchedulerResponse, error) {
	if len(r.Reason) > reasonMost {
		return nil, status.Errorf(codes.InvalidArgument, "reason: %d bytes, at most %d", len(r.Reason), reasonMost)
	}
	caller, _ := transport.CallerFrom(ctx)
	pause, already, err := s.scheduling.Pause(ctx, r.Reason, caller.Name)
	if err != nil {
		return nil, s.failures.status(err)
	}
	return &clusterv1.PauseSchedulerResponse{Pause: pause, Already: already}, nil
}

// Resume ends a pause. To end it again, after a lost answer, is no error.
func (s *Scheduler) Resume(ctx context.Context, _ *clusterv1.ResumeSchedulerRequest) (*clusterv1.ResumeSchedulerResponse, error) {
	resumed, err := s.scheduling.Resume(ctx)
	if err != nil {
		return nil, s.failures.status(err)
	}
	return &clusterv1.ResumeSchedulerResponse{Already: !resumed}, nil
}

// Explain says where a pod could go and what keeps it from other nodes.
func (s *Scheduler) Explain(ctx context.Context, r *clusterv1.ExplainPodRequest) (*clusterv1.ExplainPodResponse, error) {
	if r.Namespace == "" || r.Name == "" {
		return nil, status.Error(codes.InvalidArgument, "namespace and name: required")
	}
	response, err := s.scheduling.Explain(ctx, r.Namespace, r.Name)
	if errors.Is(err, ErrNoPod) {
		return nil, status.Errorf(codes.NotFound, "there is no pod %s/%s", r.Namespace, r.Name)
	}
	if err != nil {
		return nil, s.failed(err)
	}
	return response, nil
}

// SetAlgorithm changes which of the nodes that can take a pod is the better one.
func (s *Scheduler) SetAlgorithm(ctx context.Context, r *clusterv1.SetSchedulerAlgorithmRequest) (*clusterv1.SetSchedulerAlgorithmResponse, error) {
	if r.Algorithm != "spread" && r.Algorithm != "binpack" {
		return nil, status.Errorf(codes.InvalidArgument, "algorithm %q: want spread or binpack", r.Algorithm)
	}
	if err := s.scheduling.SetAlgorithm(ctx, r.Algorithm); err != nil {
		return nil, s.failures.status(err)
	}
	return &clusterv1.SetSchedulerAlgorithmResponse{}, nil
}

// ListProfiles says by which profiles pods are decided about.
func (s *Scheduler) ListProfiles(ctx context.Context, _ *clusterv1.ListSchedulerProfilesRequest) (*clusterv1.ListSchedulerProfilesResponse, error) {
	profiles, err := s.scheduling.Profiles(ctx)
	if err != nil {
		return nil, s.failed(err)
	}
	return &clusterv1.ListSchedulerProfilesResponse{Profiles: profiles}, nil
}

// GetProfiles gives the file of profiles back.
func (s *Scheduler) GetProfiles(ctx context.Context, _ *clusterv1.GetSchedulerProfilesRequest) (*clusterv1.GetSchedulerProfilesResponse, error) {
	file, err := s.scheduling.ProfileFile(ctx)
	if err != nil {
		return nil, s.failures.status(err)
	}
	return &clusterv1.GetSchedulerProfilesResponse{File: file}, nil
}

// SetProfiles has another file of profiles hold.
func (s *Scheduler) SetProfiles(ctx context.Context, r *clusterv1.SetSchedulerProfilesRequest) (*clusterv1.SetSchedulerProfilesResponse, error) {
	file := r.File
	if len(file) == 0 {
		file = nil
	}
	profiles, err := s.scheduling.SetProfiles(ctx, file, r.DryRun)
	if errors.Is(err, ErrProfiles) {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err != nil {
		return nil, s.failures.status(err)
	}
	return &clusterv1.SetSchedulerProfilesResponse{Profiles: profiles}, nil
}

// PlanPods says what objects mean for pods, were they stored now.
func (s *Scheduler) PlanPods(ctx context.Context, r *clusterv1.PlanPodsRequest) (*clusterv1.PlanPodsResponse, error) {
	response, err := s.scheduling.Plan(ctx, r)
	if errors.Is(err, ErrPlan) {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err != nil {
		return nil, s.failed(err)
	}
	return response, nil
}

// failed adds who leads to an error that says that this node does not.
func (s *Scheduler) failed(err error) error {
	err = s.failures.status(err)
	if status.Code(err) == codes.FailedPrecondition {
		return notLeading(s.view())
	}
	return err
}
