package identity_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/identity/identitytest"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// admitting is a cluster that lets everyone in, or answers err.
type admitting struct {
	clusterv1.UnimplementedJoinServer
	cluster *identitytest.Cluster
	err     error
	change  func(*clusterv1.JoinResponse)
	asked   *clusterv1.JoinRequest
}

func (a *admitting) Join(_ context.Context, r *clusterv1.JoinRequest) (*clusterv1.JoinResponse, error) {
	a.asked = r
	if a.err != nil {
		return nil, a.err
	}
	response := &clusterv1.JoinResponse{
		Certificate:   a.cluster.SignRequest(r.CertificateRequest, identity.Role(r.Role), r.Name),
		CaCertificate: a.cluster.CAPEM(), ClusterId: a.cluster.ID, GossipKey: make([]byte, identity.GossipKeySize),
		Servers: []string{"10.0.0.1:6443"}, Gossip: []string{"10.0.0.1:7946"},
		Settings: &clusterv1.ClusterSettings{PodCidr: "10.42.0.0/16"},
	}
	if a.change != nil {
		a.change(response)
	}
	return response, nil
}

func (a *admitting) serve(t *testing.T) (address string) {
	t.Helper()
	config := a.cluster.Server("c1").ServerTLS()
	config.NextProtos = []string{identity.ProtocolGRPC, "h2"}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(tlsCredentials{config}))
	clusterv1.RegisterJoinServer(server, a)
	done := make(chan struct{})
	go func() { defer close(done); server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return listener.Addr().String()
}

func TestJoinMakesAnIdentity(t *testing.T) {
	cluster := &admitting{cluster: identitytest.New(t)}
	token := cluster.cluster.Token(identity.Agent)
	id, response, err := identity.Join(t.Context(), identity.JoinOptions{
		Address: cluster.serve(t), Token: token, Name: "n1", Role: identity.Agent, Advertise: "10.0.0.9:0", Version: "v1",
	})
	if err != nil {
		t.Fatal(err)
	}
	if id.Name != "n1" || id.Role != identity.Agent || id.ClusterID != cluster.cluster.ID || len(id.Servers()) != 1 {
		t.Errorf("got %+v", id)
	}
	if id.Settings.PodCidr != "10.42.0.0/16" || len(response.Gossip) != 1 {
		t.Errorf("settings %v and gossip %v did not come through", id.Settings, response.Gossip)
	}
	if r := cluster.asked; r.Token != token.String() || r.Address != "10.0.0.9:0" || r.Version != "v1" {
		t.Errorf("asked %v", r)
	}
	if err := id.Save(t.TempDir()); err != nil {
		t.Error(err)
	}
}

// Whoever sits between a machine and the cluster, or has taken over an address
// of the cluster, must not get to see the token. Each impostor completes its
// part of the handshake and reads whatever comes.
func TestJoinShowsTheTokenToNobodyElse(t *testing.T) {
	cluster, foreign := identitytest.New(t), identitytest.New(t)
	chain := func(leaf *tls.Certificate, behind ...*x509.Certificate) *tls.Certificate {
		c := &tls.Certificate{Certificate: [][]byte{leaf.Certificate[0]}, PrivateKey: leaf.PrivateKey}
		for _, cert := range behind {
			c.Certificate = append(c.Certificate, cert.Raw)
		}
		return c
	}
	webhook := cluster.Issue(&x509.Certificate{DNSNames: []string{"webhook"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	stolen := chain(cluster.Server("c1").Certificate(), cluster.CA)
	stolen.PrivateKey = foreign.Server("c1").Certificate().PrivateKey
	for name, certificate := range map[string]*tls.Certificate{
		"another CA": foreign.Server("c1").Certificate(),
		"the CA's certificate behind a foreign leaf":      chain(foreign.Server("c1").Certificate(), cluster.CA),
		"both CAs behind a foreign leaf":                  chain(foreign.Server("c1").Certificate(), foreign.CA, cluster.CA),
		"an agent of the cluster":                         chain(cluster.Agent("n1").Certificate(), cluster.CA),
		"a server of the cluster that is no control node": chain(&webhook, cluster.CA),
		"no CA behind the leaf":                           chain(cluster.Server("c1").Certificate()),
		"a control node's certificate without its key":    stolen,
	} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			heard := make(chan []byte, 1)
			go func() {
				var got []byte
				defer func() { heard <- got }()
				raw, err := listener.Accept()
				if err != nil {
					return
				}
				defer raw.Close()
				conn := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{*certificate}, NextProtos: []string{identity.ProtocolGRPC}})
				conn.SetDeadline(time.Now().Add(5 * time.Second))
				got, _ = io.ReadAll(conn)
			}()
			_, _, err = identity.Join(t.Context(), identity.JoinOptions{
				Address: listener.Addr().String(), Token: cluster.Token(identity.Agent), Name: "n1", Role: identity.Agent,
			})
			if err == nil {
				t.Error("joined")
			}
			if certificate != stolen && !errors.Is(err, identity.ErrUntrusted) {
				t.Errorf("got %v, want ErrUntrusted", err)
			}
			if got := <-heard; len(got) != 0 {
				t.Errorf("%d bytes were sent, token among them: %v", len(got), bytes.Contains(got, []byte("muster-agent")))
			}
		})
	}
}

func TestJoinTellsWhatIsHopelessFromWhatMayPass(t *testing.T) {
	fake := &admitting{cluster: identitytest.New(t)}
	address := fake.serve(t)
	options := identity.JoinOptions{Address: address, Token: fake.cluster.Token(identity.Agent), Name: "n1", Role: identity.Agent}
	for _, c := range []struct {
		code      codes.Code
		want      error
		permanent bool
	}{
		{codes.Unauthenticated, identity.ErrToken, true},
		{codes.AlreadyExists, identity.ErrNameTaken, true},
		{codes.InvalidArgument, identity.ErrRefused, true},
		{codes.PermissionDenied, identity.ErrRefused, true},
		{codes.Unavailable, nil, false},
		{codes.ResourceExhausted, nil, false},
		{codes.Internal, nil, false},
	} {
		fake.err = status.Error(c.code, "the reason")
		_, _, err := identity.Join(t.Context(), options)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || identity.Permanent(err) != c.permanent || !strings.Contains(err.Error(), "the reason") {
			t.Errorf("%v: got %v (permanent %v), want %v (permanent %v)", c.code, err, identity.Permanent(err), c.want, c.permanent)
		}
	}
	fake.err = nil

	wrongRole := options
	wrongRole.Role = identity.Server
	if _, _, err := identity.Join(t.Context(), wrongRole); !errors.Is(err, identity.ErrRefused) || !strings.Contains(err.Error(), "this is an agent token") {
		t.Errorf("wrong role: got %v", err)
	}
	badName := options
	badName.Name = "N_1"
	if _, _, err := identity.Join(t.Context(), badName); !errors.Is(err, identity.ErrRefused) {
		t.Errorf("bad name: got %v", err)
	}
	foreign := options
	foreign.Token = identitytest.New(t).Token(identity.Agent)
	if _, _, err := identity.Join(t.Context(), foreign); !identity.Permanent(err) || !errors.Is(err, identity.ErrUntrusted) {
		t.Errorf("another cluster's token: got %v", err)
	}

	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := options
	nobody.Address = closed.Addr().String()
	closed.Close()
	if _, _, err := identity.Join(t.Context(), nobody); err == nil || identity.Permanent(err) {
		t.Errorf("nobody there: got %v, want a passing error", err)
	}
}

func TestJoinRefusesAnAnswerThatDoesNotFit(t *testing.T) {
	foreign := identitytest.New(t)
	fake := &admitting{cluster: identitytest.New(t)}
	address := fake.serve(t)
	other := fake.cluster.Agent("n2")
	for name, change := range map[string]func(*clusterv1.JoinResponse){
		"no gossip key": func(r *clusterv1.JoinResponse) { r.GossipKey = nil },
		"no cluster ID": func(r *clusterv1.JoinResponse) { r.ClusterId = "" },
		"another CA":    func(r *clusterv1.JoinResponse) { r.CaCertificate = foreign.CAPEM() },
		"another CA and its certificate": func(r *clusterv1.JoinResponse) {
			r.CaCertificate = foreign.CAPEM()
			r.Certificate = foreign.SignRequest(fake.asked.CertificateRequest, identity.Agent, "n1")
		},
		"another node's certificate": func(r *clusterv1.JoinResponse) { r.Certificate = encodePEM(other.Certificate().Leaf.Raw) },
		"nothing":                    func(r *clusterv1.JoinResponse) { *r = clusterv1.JoinResponse{} },
	} {
		fake.change = change
		_, _, err := identity.Join(t.Context(), identity.JoinOptions{
			Address: address, Token: fake.cluster.Token(identity.Agent), Name: "n1", Role: identity.Agent,
		})
		if err == nil || !strings.Contains(err.Error(), "unusable answer") {
			t.Errorf("%s: got %v, want unusable", name, err)
		}
	}
}

func TestJoinEndsWithItsContext(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts in the kernel, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err = identity.Join(ctx, identity.JoinOptions{
		Address: silent.Addr().String(), Token: identitytest.New(t).Token(identity.Agent), Name: "n1", Role: identity.Agent,
	})
	if !errors.Is(err, context.DeadlineExceeded) || identity.Permanent(err) {
		t.Errorf("got %v, want the deadline", err)
	}
}

// A machine joins with the token that an operator pasted, and keeps what it
// became in its directory.
func ExampleJoin() {
	join := func(ctx context.Context, dir, address, pasted string) (*identity.Identity, error) {
		token, err := identity.ParseToken(pasted)
		if err != nil {
			return nil, err
		}
		key, err := identity.KeyFor(dir)
		if err != nil {
			return nil, err
		}
		for {
			id, _, err := identity.Join(ctx, identity.JoinOptions{
				Address: address, Token: token, Name: "n1", Role: identity.Agent, Key: key,
			})
			if err == nil {
				return id, id.Save(dir)
			}
			if identity.Permanent(err) || ctx.Err() != nil {
				return nil, err
			}
			log.Print(err)
			time.Sleep(time.Second)
		}
	}
	_, err := join(context.Background(), "/var/lib/muster", "10.0.0.1:6443", "muster-agent-5b0c")
	fmt.Println(err)
	// Output: the token is cut short: copy the whole word
}

// tlsCredentials are gRPC's own but for the ALPN protocol, which those fix.
type tlsCredentials struct{ config *tls.Config }

func (c tlsCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn := tls.Server(raw, c.config)
	if err := conn.Handshake(); err != nil {
		raw.Close()
		return nil, nil, err
	}
	return conn, credentials.TLSInfo{State: conn.ConnectionState()}, nil
}

func (c tlsCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("not a client")
}
func (c tlsCredentials) Info() credentials.ProtocolInfo          { return credentials.ProtocolInfo{} }
func (c tlsCredentials) Clone() credentials.TransportCredentials { return c }
func (c tlsCredentials) OverrideServerName(string) error         { return nil }

// connect does a handshake and returns what each side saw.
func connect(t *testing.T, serverConfig, clientConfig *tls.Config) (server, client tls.ConnectionState) {
	t.Helper()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	s, c := tls.Server(far, serverConfig), tls.Client(near, clientConfig)
	done := make(chan error, 1)
	go func() {
		err := s.Handshake()
		done <- err
	}()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, c) // session tickets
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return s.ConnectionState(), c.ConnectionState()
}

func encodePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
