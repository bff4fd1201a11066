package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// ProtocolGRPC is the ALPN protocol under which control nodes speak gRPC.
const ProtocolGRPC = "muster-grpc/1"

// Why a machine is not let in. Trying again does not change these; any other
// error of Join may pass (see Permanent).
var (
	// ErrUntrusted: who answers is not the cluster the token is for.
	ErrUntrusted = errors.New("not the cluster that the token is for")
	// ErrToken: the cluster does not know the token (any more).
	ErrToken = errors.New("token is not valid")
	// ErrNameTaken: another machine has this name.
	ErrNameTaken = errors.New("node name is taken")
	// ErrRefused: the request is wrong in another way, which the message says.
	ErrRefused = errors.New("refused")
)

// Permanent says whether trying Join again with the same options is pointless.
func Permanent(err error) bool {
	for _, kind := range []error{ErrUntrusted, ErrToken, ErrNameTaken, ErrRefused} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// joinTimeout bounds one attempt.
const joinTimeout = 20 * time.Second

// JoinOptions say where to join, and as what.
type JoinOptions struct {
	Address   string // of any control node, host:port
	Token     Token
	Name      string
	Role      Role
	Advertise string // host:port at which others reach this machine
	Version   string
	// Control nodes only: what else their certificate should be good for.
	DNSNames []string
	IPs      []net.IP
	// Key is what the certificate will be for; KeyFor gives one that survives a
	// crash. nil: a new one for this attempt.
	Key *ecdsa.PrivateKey
}

// Join asks a control node to let this machine into its cluster. Nothing
// secret is sent before the other side has proved to be a control node of the
// cluster whose CA the token names. The identity is not saved. One attempt:
// the caller tries again unless the error is Permanent.
func Join(ctx context.Context, o JoinOptions) (*Identity, *clusterv1.JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	if err := o.Token.For(o.Role); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err := CheckName(o.Name); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	key := o.Key
	if key == nil {
		var err error
		if key, err = NewKey(); err != nil {
			return nil, nil, err
		}
	}
	csr, err := NewRequest(key, CommonName(o.Role, o.Name), o.DNSNames, o.IPs)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	conn, err := dialByToken(ctx, o.Address, o.Token)
	if err != nil {
		return nil, nil, err
	}
	response, err := sendJoin(ctx, conn, &clusterv1.JoinRequest{
		Token: o.Token.String(), Name: o.Name, Role: string(o.Role), Address: o.Advertise,
		CertificateRequest: csr, Version: o.Version,
	})
	if err != nil {
		return nil, nil, err
	}
	id, err := New(Params{
		Name: o.Name, Role: o.Role, ClusterID: response.ClusterId, CACert: response.CaCertificate,
		GossipKey: response.GossipKey, Servers: response.Servers, Settings: response.Settings,
	}, response.Certificate, key)
	if err == nil && CAHash(id.CA()) != o.Token.CAHash {
		err = errors.New("the CA in the answer is not the token's")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("unusable answer: %w", err)
	}
	return id, response, nil
}

// dialByToken connects to a control node of the token's cluster. The handshake
// has finished when it returns, and with it every check.
func dialByToken(ctx context.Context, address string, token Token) (net.Conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{ProtocolGRPC},
		ServerName: ServerName,
		// There is nothing to verify against yet but the token, and
		// VerifyConnection does. It runs in every handshake, before the
		// client's part of it ends.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			return verifyByToken(state.PeerCertificates, token)
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	if conn.ConnectionState().NegotiatedProtocol != ProtocolGRPC {
		conn.Close()
		return nil, fmt.Errorf("%s is not a muster server", address)
	}
	return conn, nil
}

// verifyByToken accepts a chain whose CA certificate is the one the token
// names and whose leaf that CA signed for a control node.
func verifyByToken(chain []*x509.Certificate, token Token) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w: no certificate was presented", ErrUntrusted)
	}
	for _, ca := range chain[1:] {
		if sha256.Sum256(ca.Raw) != token.CAHash {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		_, err := chain[0].Verify(x509.VerifyOptions{
			DNSName:   ServerName,
			Roots:     roots,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
			// Not ErrUntrusted: setting the clock or the server's renewal cures it.
			return fmt.Errorf("the server's certificate is not valid at this time, %s: is this machine's clock right?", time.Now().Format(time.RFC3339))
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUntrusted, err)
		}
		return nil
	}
	return fmt.Errorf("%w: its CA certificate has another hash", ErrUntrusted)
}

// sendJoin makes the one call over conn and closes it.
func sendJoin(ctx context.Context, conn net.Conn, request *clusterv1.JoinRequest) (*clusterv1.JoinResponse, error) {
	var used atomic.Bool
	client, err := grpc.NewClient("passthrough:///"+ServerName,
		// conn is encrypted already, and the only one: gRPC must not dial again
		// without the checks.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errors.New("the connection broke")
			}
			return conn, nil
		}),
		grpc.WithDisableServiceConfig())
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer conn.Close()
	defer client.Close()
	response, err := clusterv1.NewJoinClient(client).Join(ctx, request)
	if err != nil {
		return nil, joinError(err)
	}
	return response, nil
}

// joinError turns the codes with which the cluster answers (control/pki) into
// errors to act on.
func joinError(err error) error {
	s := status.Convert(err)
	kind, ok := map[codes.Code]error{
		codes.Unauthenticated:  ErrToken,
		codes.AlreadyExists:    ErrNameTaken,
		codes.InvalidArgument:  ErrRefused,
		codes.PermissionDenied: ErrRefused,
	}[s.Code()]
	if !ok {
		return err
	}
	return fmt.Errorf("%w: %s", kind, s.Message())
}
