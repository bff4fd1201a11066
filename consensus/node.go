package consensus

import (
	"context"

	"google.golang.org/grpc"
)

// Node is one member of the cluster.
type Node struct{ cfg Config }

// Open reads Dir and takes part in the cluster from then on. Run must be
// called afterwards, if only with a context that has ended, to release what Open took.
func Open(cfg Config) (*Node, error) { return nil, ErrStopped }

// Run works until ctx ends, then hands leadership on, stops and returns nil; or
// until the node cannot go on, and says why.
func (n *Node) Run(ctx context.Context) error { return ErrStopped }

// Propose has cmd applied on every node and returns the state machine's answer
// once it is applied here.
func (n *Node) Propose(ctx context.Context, cmd []byte) ([]byte, error) { return nil, ErrNoLeader }

// ReadBarrier returns once the local state holds all that was committed
// anywhere before the call.
func (n *Node) ReadBarrier(ctx context.Context) error { return ErrNoLeader }

// Register adds the services this node offers to other control nodes.
func (n *Node) Register(r grpc.ServiceRegistrar) {}

// WhileLeader runs the duties whenever this node leads, until ctx ends.
func (n *Node) WhileLeader(ctx context.Context, duties ...Duty) error { return ErrStopped }

// Term is one time of leading.
type Term struct{}

// Propose is Node.Propose, except that it never leaves this term.
func (t *Term) Propose(ctx context.Context, cmd []byte) ([]byte, error) { return nil, ErrNotLeader }

// ReadBarrier returns at once while this node leads.
func (t *Term) ReadBarrier(ctx context.Context) error { return ErrNotLeader }

// Number is raft's number of this term.
func (t *Term) Number() uint64 { return 0 }

// Status works without a leader.
func (n *Node) Status() Status { return Status{} }

// AddServer adds a control node, or makes a member that has caught up a voter. Leader only.
func (n *Node) AddServer(ctx context.Context, name, address string) error { return ErrNotLeader }

// RemoveServer takes a control node out of the configuration. Leader only.
func (n *Node) RemoveServer(ctx context.Context, name string) error { return ErrNotLeader }

// TransferLeadership hands leadership to the most current voter.
func (n *Node) TransferLeadership(ctx context.Context) error { return ErrNotLeader }

// Join asks the leader, through any of the seeds, to add this node, until it is a voter.
func (n *Node) Join(ctx context.Context, seeds []string) error { return ErrStopped }
