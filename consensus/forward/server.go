package forward

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

type server struct {
	clusterv1.UnimplementedLogServer
	leader func() Leader
}

// Register serves followers. leader returns nil while this node does not lead.
func Register(r grpc.ServiceRegistrar, leader func() Leader) {
	clusterv1.RegisterLogServer(r, &server{leader: leader})
}

var errNotLeading = status.Error(codes.FailedPrecondition, ErrNotLeader.Error())

func (s *server) Follow(stream grpc.BidiStreamingServer[clusterv1.FollowRequest, clusterv1.FollowResponse]) error {
	leader := s.leader()
	if leader == nil {
		return errNotLeading
	}
	hello, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := stream.Send(&clusterv1.FollowResponse{Term: leader.Term()}); err != nil {
		return err
	}
	f := &follower{leader: leader, name: hello.GetName(), origin: hello.GetOrigin(), wake: make(chan struct{}, 1)}
	received := make(chan error, 1)
	go func() { // ends when this function has returned: that ends the stream
		received <- f.receive(stream)
	}()
	for {
		select {
		case err := <-received:
			return err
		case <-leader.Done():
			return errNotLeading
		case <-f.wake:
			for _, message := range f.take() {
				if err := stream.Send(message); err != nil {
					return err
				}
			}
		}
	}
}

// follower is one stream as the leader sees it.
type follower struct {
	leader Leader
	name   string
	origin uint64

	mu       sync.Mutex
	refusals []*clusterv1.Refusal // at most as many as the follower has commands on the way
	reads    []*clusterv1.FollowResponse
	wake     chan struct{} // room for one
}

func (f *follower) receive(stream grpc.BidiStreamingServer[clusterv1.FollowRequest, clusterv1.FollowResponse]) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, p := range req.GetProposals() {
			refuse := func(err error) { f.refuse(p.GetSequence(), err) }
			if err := f.leader.Propose(f.origin, p.GetSequence(), p.GetCommand(), refuse); err != nil {
				refuse(err)
			}
		}
		if state := req.GetDisk(); state != clusterv1.DiskState_DISK_UNKNOWN && f.name != "" {
			f.leader.Disk(f.name, state == clusterv1.DiskState_DISK_FULL)
		}
		if number := req.GetRead(); number != 0 {
			voucher := ""
			if req.GetReadTerm() == f.leader.Term() {
				voucher = f.name
			}
			go f.read(stream.Context(), number, voucher) // one at a time: the follower waits for its answer
		}
	}
}

func (f *follower) refuse(sequence uint64, err error) {
	f.mu.Lock()
	f.refusals = append(f.refusals, refusal(sequence, err))
	f.mu.Unlock()
	poke(f.wake)
}

func (f *follower) read(ctx context.Context, number uint64, voucher string) {
	index, err := f.leader.ReadIndex(ctx, voucher)
	if err != nil {
		index = 0
	}
	f.mu.Lock()
	f.reads = append(f.reads, &clusterv1.FollowResponse{Read: number, Index: index})
	f.mu.Unlock()
	poke(f.wake)
}

func (f *follower) take() []*clusterv1.FollowResponse {
	f.mu.Lock()
	defer f.mu.Unlock()
	messages := f.reads
	for refusals := f.refusals; len(refusals) > 0; {
		part := refusals[:min(len(refusals), batchCommandsMax)]
		refusals = refusals[len(part):]
		messages = append(messages, &clusterv1.FollowResponse{Refusals: part})
	}
	f.reads, f.refusals = nil, nil
	return messages
}
