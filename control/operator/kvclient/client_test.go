package kvclient_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/musterhq/muster/control/operator/kvclient"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// scripted is a service whose pipes do what the test says.
type scripted struct {
	clusterv1.UnimplementedKVServer
	got  chan *clusterv1.KVPipeRequest
	ends chan error // of the pipe that sent to got
}

func (s *scripted) Pipe(stream grpc.BidiStreamingServer[clusterv1.KVPipeRequest, clusterv1.KVPipeResponse]) error {
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		s.got <- message
		if err := <-s.ends; err != nil {
			return err
		}
		answers := &clusterv1.KVPipeResponse{}
		for _, call := range message.Calls {
			answers.Answers = append(answers.Answers, &clusterv1.KVAnswer{
				Id: call.Id, Answer: &clusterv1.KVAnswer_Get{Get: &clusterv1.KVGetResponse{Revision: 7}}})
		}
		if err := stream.Send(answers); err != nil {
			return err
		}
	}
}

func open(t *testing.T) (*kvclient.Client, *scripted) {
	t.Helper()
	listener, server := bufconn.Listen(1<<20), grpc.NewServer()
	s := &scripted{got: make(chan *clusterv1.KVPipeRequest, 1), ends: make(chan error, 1)}
	clusterv1.RegisterKVServer(server, s)
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	c := kvclient.New(conn)
	t.Cleanup(func() { c.Close(); conn.Close(); server.Stop(); <-served })
	return c, s
}

var aPut = &clusterv1.KVCommitRequest{Ops: []*clusterv1.KVOp{{Key: []byte("a"), Value: []byte("1")}}}

// A write on a stream that breaks may have been done, a read can be asked
// again, and the next call opens another stream.
func TestBrokenStream(t *testing.T) {
	c, s := open(t)
	for _, test := range []struct {
		name string
		call func() error
		want codes.Code
	}{
		{"write", func() error { _, err := c.Commit(t.Context(), aPut); return err }, codes.Unknown},
		{"read", func() error { _, err := c.Get(t.Context(), &clusterv1.KVGetRequest{Key: []byte("a")}); return err }, codes.Unavailable},
	} {
		s.ends <- status.Error(codes.Unavailable, "gone")
		if err := test.call(); status.Code(err) != test.want {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		<-s.got
	}
	s.ends <- nil
	got, err := c.Get(t.Context(), &clusterv1.KVGetRequest{Key: []byte("a")})
	if err != nil || got.GetRevision() != 7 {
		t.Errorf("after the break: %v, %v", got, err)
	}
}

// Who may not call learns that, and not that a write may have been done.
func TestRefusedStreamIsNoDoubt(t *testing.T) {
	c, s := open(t)
	s.ends <- status.Error(codes.PermissionDenied, "not you")
	if _, err := c.Commit(t.Context(), aPut); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v, want %v", err, codes.PermissionDenied)
	}
}

// Whoever gives up is not waited for, and spoils nothing.
func TestCallThatIsGivenUp(t *testing.T) {
	c, s := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 3)
	get := func() { _, err := c.Get(ctx, &clusterv1.KVGetRequest{Key: []byte("a")}); done <- err }
	go get()
	first := <-s.got
	if len(first.GetCalls()) != 1 {
		t.Fatalf("the first message has %d calls", len(first.GetCalls()))
	}
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("got %v, want %v", err, codes.Canceled)
	}
	s.ends <- nil
	s.ends <- nil
	got, err := c.Get(t.Context(), &clusterv1.KVGetRequest{Key: []byte("a")})
	if err != nil || got.GetRevision() != 7 || len((<-s.got).GetCalls()) != 1 {
		t.Errorf("the call after one that was given up: %v, %v", got, err)
	}
}

// A client that is closed ends what is under way.
func TestClose(t *testing.T) {
	c, s := open(t)
	done := make(chan error, 1)
	go func() { _, err := c.Commit(context.Background(), aPut); done <- err }()
	<-s.got
	c.Close()
	if err := <-done; status.Code(err) != codes.Unknown {
		t.Errorf("got %v, want %v", err, codes.Unknown)
	}
	s.ends <- errors.New("over")
	if _, err := c.Commit(context.Background(), aPut); err == nil {
		t.Error("a closed client answers")
	}
}
