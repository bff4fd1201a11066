package operator

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

const (
	// transferMax bounds a transfer. Writes wait meanwhile, so it is short.
	transferMax = 3 * time.Second
	// successorPause is between two looks for the new leader.
	successorPause = 10 * time.Millisecond
)

// Leadership is handed on by its holder.
type Leadership interface {
	// TransferLeadership may block until ctx ends.
	TransferLeadership(ctx context.Context) error
}

// Autopilot is what knows and changes the set of control nodes (package
// autopilot). Add and Remove only work on the leader.
type Autopilot interface {
	Add(ctx context.Context, name, address string) (voter bool, err error)
	Remove(ctx context.Context, name string) error
	// Removed says whether a node of this name was removed and is no member.
	Removed(name string) bool
	// Describe and Health ask every control node; they take up to a second.
	Describe(ctx context.Context) map[string]*clusterv1.DescribeResponse
	Health(ctx context.Context) *clusterv1.AutopilotResponse
	Settings(ctx context.Context) *clusterv1.AutopilotSettings
	SetSettings(ctx context.Context, s *clusterv1.AutopilotSettings) (*clusterv1.AutopilotSettings, error)
}

// Raft is cluster.v1.Raft on one control node.
type Raft struct {
	clusterv1.UnimplementedRaftServer
	view      func() View
	node      Leadership
	autopilot Autopilot
	failures  Failures
	// One removal at a time: each is judged by what the one before has left.
	removing sync.Mutex
}

// NewRaft makes the service; view must not block. failures say what node and
// autopilot mean by their errors; FAILED_PRECONDITION is taken for "this node
// does not lead".
func NewRaft(view func() View, node Leadership, autopilot Autopilot, failures Failures) *Raft {
	return &Raft{view: view, node: node, autopilot: autopilot, failures: failures}
}

// Register adds the service to a gRPC server.
func (r *Raft) Register(to grpc.ServiceRegistrar) { clusterv1.RegisterRaftServer(to, r) }

// ListPeers lists the control nodes as this one has them configured. It
// answers without a leader, too.
func (r *Raft) ListPeers(ctx context.Context, request *clusterv1.ListPeersRequest) (*clusterv1.ListPeersResponse, error) {
	response := peers(r.view())
	if request.GetDescribe() {
		describe(response, r.autopilot.Describe(ctx))
	}
	return response, nil
}

// describe adds what the control nodes say of themselves.
func describe(response *clusterv1.ListPeersResponse, answers map[string]*clusterv1.DescribeResponse) {
	newest := answers[response.Leader].GetLastIndex()
	if answers[response.Leader] == nil {
		for _, it := range answers {
			newest = max(newest, it.LastIndex)
		}
	}
	for _, p := range response.Peers {
		if it := answers[p.Name]; it != nil {
			p.Reachable, p.Version, p.Disk, p.DiskFreeBytes = true, it.Version, it.Disk, it.DiskFreeBytes
			p.Lag = newest - min(newest, it.LastIndex)
		}
	}
}

func peers(v View) *clusterv1.ListPeersResponse {
	response := &clusterv1.ListPeersResponse{
		Leader: v.Leader, LeaderAddress: v.LeaderAddress, Quorum: v.HasQuorum, AnsweredBy: v.Name,
		Term: v.Term, LastIndex: v.LastIndex, AppliedIndex: v.AppliedIndex, Warning: v.warning(),
	}
	for _, server := range v.Servers {
		response.Peers = append(response.Peers, &clusterv1.Peer{
			Name: server.Name, Address: server.Address, Voter: server.Voter,
			Leader: server.Name == v.Leader, State: v.state(server.Name),
		})
	}
	return response
}

// RemovePeer takes a control node out of the configuration, for good. To
// remove it again, after a lost answer, is no error.
func (r *Raft) RemovePeer(ctx context.Context, request *clusterv1.RemovePeerRequest) (*clusterv1.RemovePeerResponse, error) {
	r.removing.Lock()
	defer r.removing.Unlock()
	view := r.view()
	if view.Leader != view.Name {
		return nil, notLeading(view)
	}
	if r.autopilot.Removed(request.Name) {
		return &clusterv1.RemovePeerResponse{Already: true}, nil
	}
	if err := mayRemove(view, request.Name, request.Force); err != nil {
		return nil, err
	}
	if err := r.autopilot.Remove(ctx, request.Name); err != nil {
		return nil, r.failed(err)
	}
	return &clusterv1.RemovePeerResponse{}, nil
}

// AddPeer takes a control node in, and lets one in again that was removed.
func (r *Raft) AddPeer(ctx context.Context, request *clusterv1.AddPeerRequest) (*clusterv1.AddPeerResponse, error) {
	if request.Name == "" {
		return nil, status.Error(codes.InvalidArgument, "name: required")
	}
	if _, port, err := net.SplitHostPort(request.Address); err != nil || port == "" {
		return nil, status.Errorf(codes.InvalidArgument, "address: %q is not host:port", request.Address)
	}
	view := r.view()
	if view.Leader != view.Name {
		return nil, notLeading(view)
	}
	for _, server := range view.Servers {
		if server.Name != request.Name && server.Address == request.Address {
			return nil, status.Errorf(codes.AlreadyExists, "%s is at %s already", server.Name, server.Address)
		}
	}
	voter, err := r.autopilot.Add(ctx, request.Name, request.Address)
	if err != nil {
		return nil, r.failed(err)
	}
	return &clusterv1.AddPeerResponse{Voter: voter}, nil
}

// Autopilot says how well the control nodes are, with and without a leader.
func (r *Raft) Autopilot(ctx context.Context, _ *clusterv1.AutopilotRequest) (*clusterv1.AutopilotResponse, error) {
	return r.autopilot.Health(ctx), nil
}

// GetAutopilotSettings answers with those that this node has where there is no
// leader.
func (r *Raft) GetAutopilotSettings(ctx context.Context, _ *clusterv1.GetAutopilotSettingsRequest) (*clusterv1.AutopilotSettings, error) {
	return r.autopilot.Settings(ctx), nil
}

// SetAutopilotSettings changes those that are given. Any control node does.
func (r *Raft) SetAutopilotSettings(ctx context.Context, given *clusterv1.AutopilotSettings) (*clusterv1.AutopilotSettings, error) {
	settings, err := r.autopilot.SetSettings(ctx, given)
	if err != nil {
		return nil, r.failures.status(err)
	}
	return settings, nil
}

// mayRemove refuses what would leave fewer alive than the rest needs for a
// quorum: the removal itself might still be agreed upon, and nothing after it.
func mayRemove(v View, name string, force bool) error {
	known, voter, voters, alive := false, false, 0, 0
	for _, server := range v.Servers {
		if server.Name == name {
			known, voter = true, server.Voter
			continue
		}
		if server.Voter {
			voters++
			if v.state(server.Name) == stateAlive {
				alive++
			}
		}
	}
	switch {
	case !known:
		return status.Errorf(codes.NotFound, "no control node is called %q", name)
	case !voter:
		return nil
	case voters == 0:
		return status.Errorf(codes.FailedPrecondition, "%s is the only control node that votes: the cluster would be gone", name)
	case alive < voters/2+1 && !force:
		return status.Errorf(codes.FailedPrecondition, "without %s only %d of the other %d control nodes are alive, and %d are needed for a quorum: start or remove a dead one first, or force it", name, alive, voters, voters/2+1)
	}
	return nil
}

// TransferLeadership hands leadership on and says to whom.
func (r *Raft) TransferLeadership(ctx context.Context, _ *clusterv1.TransferLeadershipRequest) (*clusterv1.TransferLeadershipResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, transferMax)
	defer cancel()
	if view := r.view(); view.Leader != view.Name {
		return nil, notLeading(view)
	} else if view.voters() < 2 {
		return nil, status.Errorf(codes.FailedPrecondition, "%s is the only control node that votes: no other can lead", view.Name)
	}
	if err := r.node.TransferLeadership(ctx); err != nil {
		return nil, r.failed(err)
	}
	for {
		if leader := r.view().Leader; leader != "" {
			return &clusterv1.TransferLeadershipResponse{Leader: leader}, nil
		}
		select {
		case <-time.After(successorPause):
		case <-ctx.Done():
			return nil, status.Error(codes.Unknown, "leadership was given up, and no other control node has taken it yet")
		}
	}
}

// failed adds who leads to an error that says that this node does not.
func (r *Raft) failed(err error) error {
	err = r.failures.status(err)
	if status.Code(err) == codes.FailedPrecondition {
		return notLeading(r.view())
	}
	return err
}

func notLeading(v View) error {
	if v.Leader == "" || v.Leader == v.Name {
		return status.Errorf(codes.FailedPrecondition, "%s does not lead, and knows of no leader", v.Name)
	}
	return status.Errorf(codes.FailedPrecondition, "%s does not lead: %s does, at %s", v.Name, v.Leader, v.LeaderAddress)
}
