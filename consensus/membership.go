package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

const (
	changeMax = 3 * time.Second // for one change of the configuration
	// describeMax is how long a node gets to show that it still is where it was.
	describeMax = time.Second
	// A server becomes a voter when it has applied all but this many entries.
	// It reports after two read barriers, so it hears the leader steadily.
	voterLagMax = 64
)

// AddServer makes the named node a member: a non-voter, which Join on that node
// turns into a voter once it has caught up. The address of a known member is
// changed, unless that member still answers at the old one: then it is
// ErrNameTaken. Leader only.
func (n *Node) AddServer(ctx context.Context, name, address string) error {
	_, err := n.admit(ctx, &clusterv1.AddServerRequest{Name: name, Address: address, ClusterId: n.cfg.ClusterID})
	return err
}

// RemoveServer takes the named node out of the configuration. A node that is
// not in it is no error. Leader only; a leader that removes itself steps down.
func (n *Node) RemoveServer(ctx context.Context, name string) error {
	if l, _ := n.term.get(); l == nil {
		return ErrNotLeader
	}
	return n.change(ctx, fmt.Sprintf("remove %s", name), func(timeout time.Duration) raft.IndexFuture {
		return n.raft.RemoveServer(raft.ServerID(name), 0, timeout)
	})
}

// TransferLeadership hands leadership to the most current voter. What is
// proposed meanwhile waits for the new leader; what is on its way is decided by
// the log, as in every change of leader. Leader only.
func (n *Node) TransferLeadership(ctx context.Context) error {
	l, _ := n.term.get()
	if l == nil {
		return ErrNotLeader
	}
	future := n.raft.LeadershipTransfer()
	done := make(chan error, 1)
	if !n.background.start(func() { done <- future.Error() }) {
		return ErrStopped
	}
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("transfer leadership: %w", err)
		}
	case <-ctx.Done():
		return fmt.Errorf("transfer leadership: %w", ctx.Err())
	case <-l.lost():
	}
	select { // raft has stepped down; have the term ended here as well
	case <-l.lost():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("transfer leadership: %w", ctx.Err())
	}
}

// admit is AddServer with all that the server itself says.
func (n *Node) admit(ctx context.Context, req *clusterv1.AddServerRequest) (voter bool, err error) {
	if req.GetClusterId() != n.cfg.ClusterID {
		return false, fmt.Errorf("node %s %w: %s, this is %s", req.GetName(), ErrForeign, req.GetClusterId(), n.cfg.ClusterID)
	}
	if req.GetName() == "" || req.GetAddress() == "" {
		return false, errors.New("a server has a name and an address")
	}
	if l, _ := n.term.get(); l == nil {
		return false, ErrNotLeader
	}
	id, address := raft.ServerID(req.GetName()), raft.ServerAddress(req.GetAddress())
	known := n.member(id)
	if known != nil && known.Address != address && n.answersAt(ctx, *known) {
		return false, fmt.Errorf("%w: %s at %s", ErrNameTaken, known.ID, known.Address)
	}
	if known != nil && known.Suffrage == raft.Voter && req.GetFresh() {
		// It has lost its log and with it what it promised: as a voter it could
		// help to elect a leader that lacks what it once acknowledged.
		n.log.Warn("a member comes back without its log, it starts over as a non-voter", "server", id, "address", address)
		if err := n.RemoveServer(ctx, req.GetName()); err != nil {
			return false, err
		}
		known = nil
	}
	if known == nil || known.Address != address {
		// A voter stays one: raft only changes its address then.
		err := n.change(ctx, fmt.Sprintf("add %s at %s", id, address), func(timeout time.Duration) raft.IndexFuture {
			return n.raft.AddNonvoter(id, address, 0, timeout)
		})
		if err != nil {
			return false, err
		}
		n.log.Info("control node added", "server", id, "address", address)
		known = n.member(id)
	}
	if known == nil || known.Suffrage == raft.Voter {
		return known != nil, nil
	}
	if req.GetFresh() || req.GetAppliedIndex()+voterLagMax < n.raft.LastIndex() {
		return false, nil
	}
	err = n.change(ctx, fmt.Sprintf("make %s a voter", id), func(timeout time.Duration) raft.IndexFuture {
		return n.raft.AddVoter(id, address, 0, timeout)
	})
	if err != nil {
		return false, err
	}
	n.log.Info("control node votes", "server", id, "address", address)
	return true, nil
}

func (n *Node) member(id raft.ServerID) *raft.Server {
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.ID == id {
			return &s
		}
	}
	return nil
}

// answersAt says whether that very node still is at the address.
func (n *Node) answersAt(ctx context.Context, s raft.Server) bool {
	if string(s.ID) == n.cfg.Name {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, describeMax)
	defer cancel()
	conn, err := n.cfg.Dial(ctx, string(s.ID), string(s.Address))
	if err != nil {
		return false
	}
	who, err := clusterv1.NewMembershipClient(conn).Describe(ctx, &clusterv1.DescribeRequest{})
	return err == nil && who.GetName() == string(s.ID) && who.GetClusterId() == n.cfg.ClusterID
}

// change waits for one change of the configuration.
func (n *Node) change(ctx context.Context, what string, start func(timeout time.Duration) raft.IndexFuture) error {
	done := make(chan error, 1)
	if !n.entries.start(func() { done <- start(changeMax).Error() }) {
		return ErrStopped
	}
	timer := time.NewTimer(2 * changeMax)
	defer timer.Stop()
	var err error
	select {
	case err = <-done:
	case <-timer.C:
		err = ErrOutcomeUnknown
	case <-ctx.Done():
		err = ctx.Err()
	case <-n.stopped:
		err = ErrStopped
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		err = ErrNotLeader
	case errors.Is(err, raft.ErrLeadershipLost):
		err = ErrOutcomeUnknown
	}
	return fmt.Errorf("%s: %w", what, err)
}

// membership is the service.
type membership struct {
	clusterv1.UnimplementedMembershipServer
	node *Node
}

func (m *membership) AddServer(ctx context.Context, req *clusterv1.AddServerRequest) (*clusterv1.AddServerResponse, error) {
	n := m.node
	voter, err := n.admit(ctx, req)
	if leader, _ := n.leader.get(); errors.Is(err, ErrNotLeader) && !req.GetRelayed() && leader.ID != "" && string(leader.ID) != n.cfg.Name {
		conn, err := n.cfg.Dial(ctx, string(leader.ID), string(leader.Address))
		if err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
		return clusterv1.NewMembershipClient(conn).AddServer(ctx, &clusterv1.AddServerRequest{
			Name: req.GetName(), Address: req.GetAddress(), ClusterId: req.GetClusterId(),
			Fresh: req.GetFresh(), AppliedIndex: req.GetAppliedIndex(), Relayed: true,
		})
	}
	if err != nil {
		return nil, status.Error(membershipCode(err), err.Error())
	}
	return &clusterv1.AddServerResponse{Voter: voter}, nil
}

func membershipCode(err error) codes.Code {
	switch {
	case errors.Is(err, ErrForeign):
		return codes.PermissionDenied
	case errors.Is(err, ErrNameTaken):
		return codes.AlreadyExists
	case errors.Is(err, ErrNotLeader):
		return codes.FailedPrecondition
	default:
		return codes.Unavailable
	}
}

func (m *membership) Describe(context.Context, *clusterv1.DescribeRequest) (*clusterv1.DescribeResponse, error) {
	address, leader := m.node.raft.LeaderWithID()
	return &clusterv1.DescribeResponse{
		Name: m.node.cfg.Name, ClusterId: m.node.cfg.ClusterID,
		Leader: string(leader), LeaderAddress: string(address),
	}, nil
}
