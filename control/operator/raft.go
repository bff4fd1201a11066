package operator

import (
	"context"
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

// Leadership is what changes the set of control nodes and who leads. Both only
// work on the leader, and may block until ctx ends.
type Leadership interface {
	RemoveServer(ctx context.Context, name string) error
	TransferLeadership(ctx context.Context) error
}

// Raft is cluster.v1.Raft on one control node.
type Raft struct {
	clusterv1.UnimplementedRaftServer
	view     func() View
	node     Leadership
	failures Failures
	// One removal at a time: each is judged by what the one before has left.
	removing sync.Mutex
}

// NewRaft makes the service; view must not block. failures say what node means
// by its errors; FAILED_PRECONDITION is taken for "this node does not lead".
func NewRaft(view func() View, node Leadership, failures Failures) *Raft {
	return &Raft{view: view, node: node, failures: failures}
}

// Register adds the service to a gRPC server.
func (r *Raft) Register(to grpc.ServiceRegistrar) { clusterv1.RegisterRaftServer(to, r) }

// ListPeers lists the control nodes as this one has them configured. It
// answers without a leader, too.
func (r *Raft) ListPeers(context.Context, *clusterv1.ListPeersRequest) (*clusterv1.ListPeersResponse, error) {
	return peers(r.view()), nil
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

// RemovePeer takes a control node out of the configuration.
func (r *Raft) RemovePeer(ctx context.Context, request *clusterv1.RemovePeerRequest) (*clusterv1.RemovePeerResponse, error) {
	r.removing.Lock()
	defer r.removing.Unlock()
	view := r.view()
	if view.Leader != view.Name {
		return nil, notLeading(view)
	}
	if err := mayRemove(view, request.Name, request.Force); err != nil {
		return nil, err
	}
	if err := r.node.RemoveServer(ctx, request.Name); err != nil {
		return nil, r.failed(err)
	}
	return &clusterv1.RemovePeerResponse{}, nil
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
