package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/transport"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

const (
	changeMax = 3 * time.Second // for one change of the configuration
	// describeMax is how long a node gets to show that it still is where it was.
	describeMax = time.Second
	// A server becomes a voter when it has applied all but this many entries.
	// It reports after two read barriers, so it hears the leader.
	voterLagMax = 64
)

// AddServer makes the named node a member: a non-voter, which itself asks to
// vote once it runs and has caught up. The address of a known member is
// changed, unless that member still answers at the old one: then it is
// ErrNameTaken. It reports whether the node votes. Leader only.
func (n *Node) AddServer(ctx context.Context, name, address string) (voter bool, err error) {
	return n.admit(ctx, &clusterv1.AddServerRequest{Name: name, Address: address, ClusterId: n.cfg.ClusterID})
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
	l, _ := n.term.get()
	if l == nil {
		return false, ErrNotLeader
	}
	n.settled.RLock()
	defer n.settled.RUnlock()
	id, address := raft.ServerID(req.GetName()), raft.ServerAddress(req.GetAddress())
	known := n.member(id)
	err = n.cfg.Admit(ctx, Candidate{
		Name: req.GetName(), Address: req.GetAddress(), Key: req.GetKeyHash(), Format: req.GetFormat(),
		Member: known != nil, Moved: known != nil && known.Address != address,
	})
	if err != nil {
		return false, err
	}
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
	if !n.mayVote(l, req) {
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

// mayVote says whether a non-voter has caught up and been in steady contact for
// long enough, as it has told this leader itself.
func (n *Node) mayVote(l *leadership, req *clusterv1.AddServerRequest) bool {
	it, lag := req.GetName()+" at "+req.GetAddress(), uint64(0)
	if last := n.raft.LastIndex(); last > req.GetAppliedIndex() {
		lag = last - req.GetAppliedIndex()
	}
	if req.GetFresh() || req.GetAppliedIndex() == 0 || lag > candidateLagMax {
		n.candidates.forget(it)
		return false
	}
	well := n.candidates.well(l.number, it, time.Now())
	voters := len(votersOf(n.raft.GetConfiguration().Configuration()))
	return lag <= voterLagMax && well >= n.cfg.StableAfter(voters)
}

// WhileSettled calls f with the configuration while no server is let in through
// this node: what f finds out about the servers is then true of all of them.
func (n *Node) WhileSettled(f func([]Server) error) error {
	n.settled.Lock()
	defer n.settled.Unlock()
	return f(n.Status().Servers)
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
	_, err := n.Describe(ctx, string(s.ID), string(s.Address))
	return err == nil
}

// Describe asks the control node at an address what it is. It is an error if it
// is of another name or cluster, or does not answer within a second.
func (n *Node) Describe(ctx context.Context, name, address string) (*clusterv1.DescribeResponse, error) {
	if name == n.cfg.Name && address == n.cfg.Address {
		return n.describe(), nil
	}
	ctx, cancel := context.WithTimeout(ctx, describeMax)
	defer cancel()
	conn, err := n.cfg.Dial(ctx, name, address)
	if err != nil {
		return nil, fmt.Errorf("%s at %s: %w", name, address, err)
	}
	who, err := clusterv1.NewMembershipClient(conn).Describe(ctx, &clusterv1.DescribeRequest{})
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s does not answer at %s: %s", name, address, transport.Reason(err))
	case who.GetClusterId() != n.cfg.ClusterID:
		return nil, fmt.Errorf("the node at %s %w: %s, this is %s", address, ErrForeign, who.GetClusterId(), n.cfg.ClusterID)
	case who.GetName() != name:
		return nil, fmt.Errorf("%w: %s, not %s, is at %s", ErrOtherName, who.GetName(), name, address)
	}
	return who, nil
}

func (n *Node) describe() *clusterv1.DescribeResponse {
	s := n.Status()
	d := &clusterv1.DescribeResponse{
		Name: n.cfg.Name, ClusterId: n.cfg.ClusterID, Leader: s.Leader, LeaderAddress: s.LeaderAddress,
		Version: n.cfg.Version, Format: n.cfg.Format, Term: s.Term, LastIndex: s.LastIndex, AppliedIndex: s.AppliedIndex,
		LastContactMs: s.LastContact.Milliseconds(), Voter: n.isVoterHere(),
		Disk: clusterv1.DiskState_DISK_OK, DiskFreeBytes: s.DiskFree, LogBytes: uint64(max(0, s.LogBytes)),
	}
	if _, size, _ := n.snapshots.newest(); size > 0 {
		d.SnapshotBytes = uint64(size)
	}
	if s.DiskFull {
		d.Disk = clusterv1.DiskState_DISK_FULL
	}
	if s.LastContact < 0 {
		d.LastContactMs = -1
	}
	return d
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
	req = proto.CloneOf(req)
	req.Format = max(req.GetFormat(), 1) // who does not say reads the first
	if caller, ok := transport.CallerFrom(ctx); ok && caller.Role == identity.Server && !req.GetRelayed() {
		key := caller.Key()
		req.KeyHash = key[:]
	}
	voter, err := n.admit(ctx, req)
	if leader, _ := n.leader.get(); errors.Is(err, ErrNotLeader) && !req.GetRelayed() && leader.ID != "" && string(leader.ID) != n.cfg.Name {
		conn, err := n.cfg.Dial(ctx, string(leader.ID), string(leader.Address))
		if err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
		req.Relayed = true
		return clusterv1.NewMembershipClient(conn).AddServer(ctx, req)
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
	case errors.Is(err, ErrRefused):
		return codes.Aborted
	case errors.Is(err, ErrNotLeader):
		return codes.FailedPrecondition
	default:
		return codes.Unavailable
	}
}

// Describe works with and without a leader.
func (m *membership) Describe(context.Context, *clusterv1.DescribeRequest) (*clusterv1.DescribeResponse, error) {
	return m.node.describe(), nil
}
