package transport_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/identity/identitytest"
	"github.com/musterhq/muster/consensus/transport"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func raftAddress(mux *transport.Mux) raft.ServerAddress { return raftAddressOf(mux.Addr()) }
func raftAddressOf(addr net.Addr) raft.ServerAddress    { return raft.ServerAddress(addr.String()) }

// everything answers every service with who asked.
type everything struct {
	clusterv1.UnimplementedLogServer
	clusterv1.UnimplementedMembershipServer
	clusterv1.UnimplementedSessionsServer
	clusterv1.UnimplementedOperatorServer
	clusterv1.UnimplementedRaftServer
	clusterv1.UnimplementedSnapshotServer
	clusterv1.UnimplementedJoinServer
	agentv1.UnimplementedAgentServer

	mu     sync.Mutex
	caller transport.Caller
}

func (e *everything) saw(ctx context.Context) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.caller, _ = transport.CallerFrom(ctx)
}

func (e *everything) last() transport.Caller {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.caller
}

func (e *everything) Follow(stream grpc.BidiStreamingServer[clusterv1.FollowRequest, clusterv1.FollowResponse]) error {
	e.saw(stream.Context())
	return stream.Send(&clusterv1.FollowResponse{})
}
func (e *everything) AddServer(ctx context.Context, _ *clusterv1.AddServerRequest) (*clusterv1.AddServerResponse, error) {
	e.saw(ctx)
	return &clusterv1.AddServerResponse{}, nil
}
func (e *everything) Members(ctx context.Context, _ *clusterv1.MembersRequest) (*clusterv1.MembersResponse, error) {
	e.saw(ctx)
	return &clusterv1.MembersResponse{}, nil
}
func (e *everything) ListPeers(ctx context.Context, _ *clusterv1.ListPeersRequest) (*clusterv1.ListPeersResponse, error) {
	e.saw(ctx)
	return &clusterv1.ListPeersResponse{}, nil
}
func (e *everything) Save(_ *clusterv1.SaveSnapshotRequest, stream grpc.ServerStreamingServer[clusterv1.SaveSnapshotResponse]) error {
	e.saw(stream.Context())
	return stream.Send(&clusterv1.SaveSnapshotResponse{})
}
func (e *everything) Join(ctx context.Context, _ *clusterv1.JoinRequest) (*clusterv1.JoinResponse, error) {
	e.saw(ctx)
	return &clusterv1.JoinResponse{}, nil
}
func (e *everything) Renew(ctx context.Context, _ *clusterv1.RenewRequest) (*clusterv1.RenewResponse, error) {
	e.saw(ctx)
	return &clusterv1.RenewResponse{}, nil
}
func (e *everything) Watch(_ *clusterv1.WatchSessionsRequest, stream grpc.ServerStreamingServer[clusterv1.SessionEvent]) error {
	e.saw(stream.Context())
	return stream.Send(&clusterv1.SessionEvent{Synced: true})
}
func (e *everything) Session(stream grpc.BidiStreamingServer[agentv1.FromAgent, agentv1.ToAgent]) error {
	e.saw(stream.Context())
	for {
		if _, err := stream.Recv(); err != nil {
			return nil
		}
		if err := stream.Send(&agentv1.ToAgent{}); err != nil {
			return err
		}
	}
}

// keys is the service that has a Watch of its own.
type keys struct {
	clusterv1.UnimplementedKVServer
	*everything
}

func (k keys) Watch(_ *clusterv1.KVWatchRequest, stream grpc.ServerStreamingServer[clusterv1.KVWatchResponse]) error {
	k.saw(stream.Context())
	return stream.Send(&clusterv1.KVWatchResponse{})
}

func serveGRPC(t *testing.T, mux *transport.Mux) *everything {
	t.Helper()
	return serveGRPCWith(t, mux, transport.ServerOptions())
}

func serveGRPCWith(t *testing.T, mux *transport.Mux, options []grpc.ServerOption) *everything {
	t.Helper()
	service := &everything{}
	server := grpc.NewServer(options...)
	clusterv1.RegisterLogServer(server, service)
	clusterv1.RegisterMembershipServer(server, service)
	clusterv1.RegisterSessionsServer(server, service)
	clusterv1.RegisterOperatorServer(server, service)
	clusterv1.RegisterKVServer(server, keys{everything: service})
	clusterv1.RegisterRaftServer(server, service)
	clusterv1.RegisterSnapshotServer(server, service)
	clusterv1.RegisterJoinServer(server, service)
	agentv1.RegisterAgentServer(server, service)
	unlisted := grpc.ServiceDesc{ServiceName: "muster.cluster.v9.Later", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "Do",
		Handler: func(_ any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			request := &clusterv1.MembersRequest{}
			if err := decode(request); err != nil {
				return nil, err
			}
			return interceptor(ctx, request, &grpc.UnaryServerInfo{FullMethod: "/muster.cluster.v9.Later/Do"},
				func(context.Context, any) (any, error) { return &clusterv1.MembersResponse{}, nil })
		},
	}}}
	server.RegisterService(&unlisted, nil)
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(mux.GRPC()) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return service
}

// Who may call what. A method that is missing here is open to nobody, which the
// last row stands for.
func TestCallersReachOnlyTheirServices(t *testing.T) {
	cluster := identitytest.New(t)
	mux, _ := listen(t, cluster.Server("c1"))
	service := serveGRPC(t, mux)
	address := mux.Addr().String()

	dial := func(conn *grpc.ClientConn, err error) *grpc.ClientConn {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	callers := []struct {
		name string
		conn *grpc.ClientConn
		want transport.Caller
	}{
		{"server", dial(transport.DialGRPC(address, cluster.Server("c2"))), transport.Caller{Name: "c2", Role: identity.Server}},
		{"agent", dial(transport.DialGRPC(address, cluster.Agent("n1"))), transport.Caller{Name: "n1", Role: identity.Agent}},
		{"admin", dial(transport.DialGRPCWith(address, &tls.Config{RootCAs: cluster.Roots(), Certificates: []tls.Certificate{cluster.Admin()}})), transport.Caller{Name: "admin"}},
		{"nobody", dial(transport.DialGRPCWith(address, &tls.Config{RootCAs: cluster.Roots()})), transport.Caller{}},
	}
	for _, c := range []struct {
		method string
		call   func(context.Context, *grpc.ClientConn) error
		may    string
	}{
		{"Log", func(ctx context.Context, conn *grpc.ClientConn) error {
			stream, err := clusterv1.NewLogClient(conn).Follow(ctx)
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}, "server"},
		{"Sessions", func(ctx context.Context, conn *grpc.ClientConn) error {
			stream, err := clusterv1.NewSessionsClient(conn).Watch(ctx, &clusterv1.WatchSessionsRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}, "server"},
		{"Membership", func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := clusterv1.NewMembershipClient(conn).AddServer(ctx, &clusterv1.AddServerRequest{})
			return err
		}, "server admin"},
		{"Operator", func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := clusterv1.NewOperatorClient(conn).Members(ctx, &clusterv1.MembersRequest{})
			return err
		}, "server admin"},
		{"KV", func(ctx context.Context, conn *grpc.ClientConn) error {
			stream, err := clusterv1.NewKVClient(conn).Watch(ctx, &clusterv1.KVWatchRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}, "server admin"},
		{"Raft", func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := clusterv1.NewRaftClient(conn).ListPeers(ctx, &clusterv1.ListPeersRequest{})
			return err
		}, "server admin"},
		{"Snapshot", func(ctx context.Context, conn *grpc.ClientConn) error {
			stream, err := clusterv1.NewSnapshotClient(conn).Save(ctx, &clusterv1.SaveSnapshotRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		}, "server admin"},
		{"Agent", func(ctx context.Context, conn *grpc.ClientConn) error {
			stream, err := agentv1.NewAgentClient(conn).Session(ctx)
			if err == nil {
				stream.Send(&agentv1.FromAgent{}) // Recv says why it failed
				_, err = stream.Recv()
			}
			return err
		}, "agent"},
		{"Join.Join", func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := clusterv1.NewJoinClient(conn).Join(ctx, &clusterv1.JoinRequest{})
			return err
		}, "server agent admin nobody"},
		{"Join.Renew", func(ctx context.Context, conn *grpc.ClientConn) error {
			_, err := clusterv1.NewJoinClient(conn).Renew(ctx, &clusterv1.RenewRequest{})
			return err
		}, "server agent"},
		{"a service without a rule", func(ctx context.Context, conn *grpc.ClientConn) error {
			return conn.Invoke(ctx, "/muster.cluster.v9.Later/Do", &clusterv1.MembersRequest{}, &clusterv1.MembersResponse{})
		}, ""},
	} {
		for _, caller := range callers {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			err := c.call(ctx, caller.conn)
			cancel()
			want := codes.PermissionDenied
			switch {
			case strings.Contains(c.may, caller.name):
				want = codes.OK
			case caller.name == "nobody":
				want = codes.Unauthenticated
			}
			if got := status.Code(err); got != want {
				t.Errorf("%s calls %s: got %v, want %v", caller.name, c.method, err, want)
			}
			if want == codes.OK {
				if got := service.last(); got.Name != caller.want.Name || got.Role != caller.want.Role {
					t.Errorf("%s calls %s: seen as %s %q, want %s %q", caller.name, c.method, got.Role, got.Name, caller.want.Role, caller.want.Name)
				}
			}
		}
	}
}

func TestDialGRPCTalksToControlNodesOfItsClusterOnly(t *testing.T) {
	cluster, foreign := identitytest.New(t), identitytest.New(t)
	mux, _ := listen(t, foreign.Server("c1"))
	serveGRPC(t, mux)
	imposter, _ := listen(t, cluster.Agent("n1")) // signed by the CA, but no control node
	serveGRPC(t, imposter)
	for name, address := range map[string]string{"another cluster": mux.Addr().String(), "an agent": imposter.Addr().String()} {
		conn, err := transport.DialGRPC(address, cluster.Server("c2"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = clusterv1.NewMembershipClient(conn).AddServer(t.Context(), &clusterv1.AddServerRequest{Name: "secret"})
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%s: got %v, want no connection", name, err)
		}
	}
}

func TestMessagesAreBounded(t *testing.T) {
	cluster := identitytest.New(t)
	mux, _ := listen(t, cluster.Server("c1"))
	serveGRPC(t, mux)
	conn, err := transport.DialGRPC(mux.Addr().String(), cluster.Server("c2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	membership := clusterv1.NewMembershipClient(conn)
	_, err = membership.AddServer(t.Context(), &clusterv1.AddServerRequest{Name: strings.Repeat("x", transport.MessageMax-100)})
	if err != nil {
		t.Errorf("just below the limit: %v", err)
	}
	_, err = membership.AddServer(t.Context(), &clusterv1.AddServerRequest{Name: strings.Repeat("x", transport.MessageMax)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("above the limit: got %v, want ResourceExhausted", err)
	}
}

// A control node that comes back must be found again within about a second, or
// every failover costs what gRPC's default back-off does: minutes.
func TestDialGRPCFindsARestartedNodeAgain(t *testing.T) {
	t.Parallel()
	cluster := identitytest.New(t)
	mux, stop := listen(t, cluster.Server("c1"))
	serveGRPC(t, mux)
	address := mux.Addr().String()
	conn, err := transport.DialGRPC(address, cluster.Server("c2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	membership := clusterv1.NewMembershipClient(conn)
	if _, err := membership.AddServer(t.Context(), &clusterv1.AddServerRequest{}); err != nil {
		t.Fatal(err)
	}
	stop()
	for begin := time.Now(); time.Since(begin) < 7500*time.Millisecond; time.Sleep(100 * time.Millisecond) {
		membership.AddServer(t.Context(), &clusterv1.AddServerRequest{}) // the back-off grows
	}
	again, err := transport.Listen(address, cluster.Server("c1"))
	if err != nil {
		t.Skipf("the port was taken meanwhile: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- again.Run(ctx) }()
	defer func() { cancel(); <-done }()
	serveGRPC(t, again)
	begin := time.Now()
	if _, err := membership.AddServer(t.Context(), &clusterv1.AddServerRequest{}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 2500*time.Millisecond {
		t.Errorf("found again after %v, want about a second", took)
	}
}

// A process that hangs keeps acknowledging in the kernel; only pings tell.
func TestServerDropsAClientThatHangs(t *testing.T) {
	t.Parallel()
	cluster := identitytest.New(t)
	mux, _ := listen(t, cluster.Server("c1"))
	serveGRPCWith(t, mux, transport.ServerOptionsPinging(time.Second))
	config := cluster.Agent("n1").ClientTLS(identity.ServerName)
	config.NextProtos = []string{transport.ALPNGRPC}
	conn, err := tls.Dial("tcp", mux.Addr().String(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")) // and no more
	begin := time.Now()
	conn.SetDeadline(begin.Add(12 * time.Second))
	for {
		if _, err := conn.Read(make([]byte, 1024)); err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				t.Errorf("still connected after %v", time.Since(begin))
			}
			break
		}
	}
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("dropped after %v, want about 4 s", took)
	}
}

func TestCallerFromBelievesOnlyVerifiedCertificates(t *testing.T) {
	if c, ok := transport.CallerFrom(t.Context()); ok {
		t.Errorf("got %v out of nowhere", c)
	}
	want := transport.Caller{Name: "n1", Role: identity.Agent}
	if got, ok := transport.CallerFrom(transport.NewContext(t.Context(), want)); !ok || got.Name != "n1" {
		t.Errorf("got %v, want %v", got, want)
	}
}
