package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/musterhq/muster/consensus/identity"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// MessageMax is the largest gRPC message in bytes, either way.
const MessageMax = 16 << 20

// A vanished host is noticed by the kernel (noticeLoss). A process that hangs
// while its kernel acknowledges needs pings. A client that hangs costs only memory,
// and a thousand idle ones that are pinged each second or two cost more than all else
// an idle control node does.
const (
	serverPingAfter  = time.Minute
	clientPingAfter  = 10 * time.Second
	sessionPingAfter = time.Minute
	pingTimeout      = 3 * time.Second
	connectTimeout   = 3 * time.Second
)

// WithSession is for connections that carry a session which notices by itself, and
// sooner, that the other side hangs.
func WithSession() grpc.DialOption { return pingAfter(sessionPingAfter) }

func pingAfter(idle time.Duration) grpc.DialOption {
	return grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: idle, Timeout: pingTimeout, PermitWithoutStream: true})
}

// window is how much of a stream, and of a connection, may be under way unread.
// A fixed one keeps gRPC from measuring the connection, which it would do with a
// ping back and forth for each message that comes after a pause: three in four
// of all packets of sessions in which there is nothing to say but heartbeats.
const window = 1 << 20

// ServerOptions are what a grpc.Server on Mux.GRPC needs: the credentials,
// Authorize, limits and keepalive.
func ServerOptions() []grpc.ServerOption { return serverOptions(serverPingAfter) }

func serverOptions(pingAfter time.Duration) []grpc.ServerOption {
	unary, stream := Authorize()
	return []grpc.ServerOption{
		grpc.Creds(ServerCredentials()),
		grpc.ChainUnaryInterceptor(unary),
		grpc.ChainStreamInterceptor(stream),
		grpc.MaxRecvMsgSize(MessageMax),
		grpc.MaxSendMsgSize(MessageMax),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}
}

// DialGRPC prepares a connection to a control node; it is made when first used
// and made again when it breaks, trying at least once a second. The other side
// must prove to be a control node of this cluster.
func DialGRPC(address string, id *identity.Identity, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	return DialGRPCWith(address, id.ClientTLS(identity.ServerName), opts...)
}

// DialGRPCWith is DialGRPC for who is not a node, an administrator for
// instance. config carries the certificate and the cluster's CA; its
// ServerName is set here.
func DialGRPCWith(address string, config *tls.Config, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	config = config.Clone()
	config.ServerName = identity.ServerName
	config.NextProtos = []string{ALPNGRPC}
	config.MinVersion = tls.VersionTLS13
	opts = append([]grpc.DialOption{
		grpc.WithTransportCredentials(clientCredentials{config}),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dialTCP(ctx, address)
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithInitialWindowSize(window),
		grpc.WithInitialConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MessageMax), grpc.MaxCallSendMsgSize(MessageMax)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: connectTimeout,
		}),
		pingAfter(clientPingAfter),
	}, opts...)
	return grpc.NewClient("passthrough:///"+address, opts...)
}

func dialTCP(ctx context.Context, address string) (*net.TCPConn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	tcp := conn.(*net.TCPConn)
	if err := noticeLoss(tcp); err != nil {
		tcp.Close()
		return nil, err
	}
	return tcp, nil
}

// ServerCredentials take over connections from Mux.GRPC, whose handshake is
// done. The verified certificate is in the credentials.TLSInfo of a call's peer.
func ServerCredentials() credentials.TransportCredentials { return serverCredentials{} }

type serverCredentials struct{}

func (serverCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, ok := raw.(*tls.Conn)
	if !ok || !conn.ConnectionState().HandshakeComplete {
		return nil, nil, errors.New("gRPC is served on transport.Mux only: not a finished TLS connection")
	}
	return conn, tlsInfo(conn), nil
}

func (serverCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server credentials cannot dial")
}

func (serverCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (serverCredentials) Clone() credentials.TransportCredentials { return serverCredentials{} }
func (serverCredentials) OverrideServerName(string) error         { return nil }

// clientCredentials differ from gRPC's own in the ALPN protocol, which those
// always make h2.
type clientCredentials struct{ config *tls.Config }

func (c clientCredentials) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	inTurn := &dialed{Conn: raw, late: ctx.Done()}
	if err := inTurn.take(); err != nil {
		raw.Close()
		return nil, nil, err
	}
	conn, err := handshake(ctx, inTurn, c.config)
	inTurn.finish()
	if err != nil {
		return nil, nil, err
	}
	return conn, tlsInfo(conn), nil
}

func (clientCredentials) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("client credentials cannot serve")
}

func (c clientCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (c clientCredentials) Clone() credentials.TransportCredentials { return c }
func (clientCredentials) OverrideServerName(string) error           { return nil }

// handshake makes a client connection that speaks config's one protocol. It
// closes raw if it fails.
func handshake(ctx context.Context, raw net.Conn, config *tls.Config) (*tls.Conn, error) {
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	if got, want := conn.ConnectionState().NegotiatedProtocol, config.NextProtos[0]; got != want {
		conn.Close()
		return nil, fmt.Errorf("the other side speaks %q instead of %q", got, want)
	}
	return conn, nil
}

func tlsInfo(conn *tls.Conn) credentials.TLSInfo {
	return credentials.TLSInfo{
		State:          conn.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}
}
