package dispatch

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/consensus/transport"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// streamKey names, in the metadata of Agent.Stream, the OpenStream it answers.
const streamKey = "muster-stream"

// openTimeout bounds how long an agent may take to open a stream it was asked for.
const openTimeout = 10 * time.Second

// Stream is one log, exec, attach or port-forward conversation with an agent.
// Send and Recv may be called from one goroutine each. Recv answers io.EOF
// after the agent's last frame. The stream ends when the context it was opened
// with ends. An alias, so that a consumer may declare the same of its own.
type Stream = interface {
	Send(*agentv1.Frame) error
	CloseSend() error
	Recv() (*agentv1.Frame, error)
}

// streams pairs what was asked of agents with what they open.
type streams struct {
	mu      sync.Mutex
	waiting map[string]*pending
}

type pending struct {
	node   string
	ctx    context.Context
	opened chan grpc.BidiStreamingServer[agentv1.Frame, agentv1.Frame]
}

func newStreams() *streams { return &streams{waiting: map[string]*pending{}} }

// Open reaches the agent of a node, through this control node if it holds the
// agent's session, else through the one that does.
func (d *Dispatcher) Open(ctx context.Context, node string, request *agentv1.OpenStream) (Stream, error) {
	stream, err := d.openHere(ctx, node, request)
	if !errors.Is(err, ErrNoSession) {
		return stream, err
	}
	for _, peer := range d.cfg.Peers() {
		stream, err := d.openThrough(ctx, peer, node, request)
		if err == nil {
			return stream, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if status.Code(err) != codes.NotFound {
			d.log.Warn("no stream through control node", "peer", peer.Name, "node", node, "error", err)
		}
	}
	return nil, ErrNoSession
}

func (d *Dispatcher) openHere(ctx context.Context, node string, request *agentv1.OpenStream) (Stream, error) {
	s := d.sessions.get(node)
	if s == nil {
		return nil, ErrNoSession
	}
	request = proto.CloneOf(request)
	request.Id = rand.Text()
	wait := &pending{node: node, ctx: ctx, opened: make(chan grpc.BidiStreamingServer[agentv1.Frame, agentv1.Frame], 1)}
	d.streams.mu.Lock()
	d.streams.waiting[request.Id] = wait
	d.streams.mu.Unlock()
	defer func() {
		d.streams.mu.Lock()
		delete(d.streams.waiting, request.Id)
		d.streams.mu.Unlock()
	}()
	s.open(request)
	timeout := time.NewTimer(openTimeout)
	defer timeout.Stop()
	select {
	case stream := <-wait.opened:
		return &agentStream{BidiStreamingServer: stream, ctx: ctx}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timeout.C:
		return nil, status.Errorf(codes.DeadlineExceeded, "the agent of node %s did not open the stream within %s", node, openTimeout)
	}
}

// Stream is called by an agent that was asked for a stream. It lasts until the
// agent has said all, or the one who asked is gone.
func (d *Dispatcher) Stream(stream grpc.BidiStreamingServer[agentv1.Frame, agentv1.Frame]) error {
	caller, _ := transport.CallerFrom(stream.Context())
	node := caller.Name
	ids := metadata.ValueFromIncomingContext(stream.Context(), streamKey)
	if len(ids) != 1 {
		return status.Errorf(codes.InvalidArgument, "want one %s in the metadata", streamKey)
	}
	d.streams.mu.Lock()
	wait := d.streams.waiting[ids[0]]
	if wait != nil && wait.node == node {
		delete(d.streams.waiting, ids[0])
	} else {
		wait = nil
	}
	d.streams.mu.Unlock()
	if wait == nil {
		return status.Error(codes.NotFound, "nobody waits for this stream")
	}
	wait.opened <- stream
	// Whoever opened it reads until the end of the stream or of ctx.
	select {
	case <-wait.ctx.Done():
		return status.Error(codes.Canceled, "the client has gone")
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

// agentStream is the server's side of Agent.Stream as a Stream.
type agentStream struct {
	grpc.BidiStreamingServer[agentv1.Frame, agentv1.Frame]
	ctx context.Context
}

// CloseSend says nothing: an agent learns from a frame with close that a
// channel has ended, and the server's side of a gRPC stream can't half-close.
func (s *agentStream) CloseSend() error { return nil }

func (s *agentStream) Recv() (*agentv1.Frame, error) {
	frame, err := s.BidiStreamingServer.Recv()
	if err != nil && s.ctx.Err() != nil {
		return nil, s.ctx.Err()
	}
	return frame, err
}

// openThrough asks another control node for a stream to an agent of its own.
func (d *Dispatcher) openThrough(ctx context.Context, peer Peer, node string, request *agentv1.OpenStream) (Stream, error) {
	conn, err := d.cfg.Dial(ctx, peer.Name, peer.Address)
	if err != nil {
		return nil, err
	}
	// Dropped streams must not outlive a failed opening.
	ctx, cancel := context.WithCancel(ctx)
	relay, err := clusterv1.NewSessionsClient(conn).Relay(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	if err := relay.Send(&clusterv1.RelayFrame{Frame: &clusterv1.RelayFrame_Open{Open: &clusterv1.RelayOpen{Node: node, Stream: request}}}); err != nil && !errors.Is(err, io.EOF) {
		cancel()
		return nil, err
	}
	// The header comes once the agent has opened its end.
	if header, err := relay.Header(); err != nil || len(header.Get(streamKey)) == 0 {
		if err == nil {
			_, err = relay.Recv()
		}
		cancel()
		return nil, err
	}
	return &relayStream{relay: relay, cancel: cancel}, nil
}

// relayStream is a stream through another control node.
type relayStream struct {
	relay  grpc.BidiStreamingClient[clusterv1.RelayFrame, agentv1.Frame]
	cancel context.CancelFunc
}

func (s *relayStream) Send(frame *agentv1.Frame) error {
	return s.relay.Send(&clusterv1.RelayFrame{Frame: &clusterv1.RelayFrame_Data{Data: frame}})
}

func (s *relayStream) CloseSend() error { return s.relay.CloseSend() }

func (s *relayStream) Recv() (*agentv1.Frame, error) {
	frame, err := s.relay.Recv()
	if err != nil {
		s.cancel()
	}
	return frame, err
}

// Relay serves another control node whose client wants an agent of ours.
func (d *Dispatcher) Relay(relay grpc.BidiStreamingServer[clusterv1.RelayFrame, agentv1.Frame]) error {
	first, err := relay.Recv()
	if err != nil {
		return err
	}
	open := first.GetOpen()
	if open == nil || open.Stream == nil {
		return status.Error(codes.InvalidArgument, "a relay begins with open")
	}
	ctx, cancel := context.WithCancel(relay.Context())
	defer cancel()
	stream, err := d.openHere(ctx, open.Node, open.Stream)
	if errors.Is(err, ErrNoSession) {
		return status.Error(codes.NotFound, err.Error())
	}
	if err != nil {
		return err
	}
	if err := relay.SendHeader(metadata.Pairs(streamKey, "open")); err != nil {
		return err
	}
	// Ends with this handler: Recv fails once the relay's context does.
	go func() {
		for {
			frame, err := relay.Recv()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				cancel()
				return
			}
			if data := frame.GetData(); data != nil {
				if err := stream.Send(data); err != nil {
					cancel()
					return
				}
			}
		}
	}()
	for {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := relay.Send(frame); err != nil {
			return err
		}
		if frame.Result != nil {
			return nil
		}
	}
}
