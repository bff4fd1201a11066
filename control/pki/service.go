package pki

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/transport"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

var (
	// ErrTokenUnknown: no such token, or its secret is another. See Tokens.
	ErrTokenUnknown = errors.New("token is not known to this cluster")
	// ErrNameTaken: another machine has the name. See Names.
	ErrNameTaken = errors.New("node name is taken")
)

// Tokens knows which tokens admit machines.
type Tokens interface {
	// Check says ErrTokenUnknown unless the cluster has a token for the role with
	// this id and the same hash of its secret (identity.SecretMatches compares).
	// Any other error means that it could not be found out.
	Check(ctx context.Context, role identity.Role, id string, secretHash [sha256.Size]byte) error
}

// Names gives each name to one machine.
type Names interface {
	// Claim gives name to the machine with this key, or says ErrNameTaken when
	// another machine has it. To claim again with the same key is to try again
	// after a lost answer, and succeeds. keyHash is the SHA-256 of the DER form
	// (PKIX) of the machine's public key.
	Claim(ctx context.Context, role identity.Role, name string, keyHash [sha256.Size]byte) error
	// Renew says ErrRemoved unless the node with this key is part of the cluster
	// and the name is still its own, so that one that was removed or replaced
	// cannot renew its certificate. The machine may show the next key from then
	// on, and the present one for as long as it has not heard the answer.
	Renew(ctx context.Context, role identity.Role, name string, key, next [sha256.Size]byte) error
}

// ErrRemoved: the node is no longer part of the cluster. See Names.
var ErrRemoved = errors.New("node has been removed from the cluster")

// ServiceConfig is what the service needs to know. The functions are called
// for each machine that joins.
type ServiceConfig struct {
	Authority *Authority
	Tokens    Tokens
	Names     Names
	GossipKey []byte
	Settings  *clusterv1.ClusterSettings
	Servers   func() []string // host:port of the control nodes
	Gossip    func() []string // host:port of gossip members to start from
	Logger    *slog.Logger
}

// Service lets machines join and nodes renew their certificates.
type Service struct {
	clusterv1.UnimplementedJoinServer
	ServiceConfig
	failures *failures
}

var _ clusterv1.JoinServer = (*Service)(nil)

// NewService serves cluster.v1.Join on any control node.
func NewService(c ServiceConfig) *Service {
	return &Service{ServiceConfig: c, failures: newFailures()}
}

// Join answers with codes that identity.Join turns into its errors:
// Unauthenticated for the token, AlreadyExists for the name, InvalidArgument
// and PermissionDenied for the rest that trying again does not cure.
func (s *Service) Join(ctx context.Context, r *clusterv1.JoinRequest) (*clusterv1.JoinResponse, error) {
	if err := checkRequest(r); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	from := host(ctx)
	if wait, ok := s.failures.allowed(from); !ok {
		return nil, status.Errorf(codes.ResourceExhausted, "too many failed attempts from %s; try again in %s", from, wait)
	}
	token, err := s.admit(ctx, r)
	if err != nil {
		if code := status.Code(err); code == codes.Unauthenticated || code == codes.InvalidArgument {
			s.failures.add(from)
		}
		s.Logger.Warn("join refused", "from", from, "name", r.Name, "role", r.Role, "error", status.Convert(err).Message())
		return nil, err
	}
	response, err := s.enroll(ctx, identity.Role(r.Role), r)
	if err != nil {
		s.Logger.Warn("join failed", "from", from, "name", r.Name, "role", r.Role, "error", status.Convert(err).Message())
		return nil, err
	}
	s.Logger.Info("machine joined", "from", from, "name", r.Name, "role", r.Role, "token", token)
	return response, nil
}

// Renew signs a new certificate for the node that calls.
func (s *Service) Renew(ctx context.Context, r *clusterv1.RenewRequest) (*clusterv1.RenewResponse, error) {
	caller, ok := transport.CallerFrom(ctx)
	if !ok || caller.Role == "" {
		return nil, status.Error(codes.PermissionDenied, "only nodes renew their certificates")
	}
	csr, err := parseRequest(r.CertificateRequest)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	certificate, err := s.Authority.Renew(caller.Certificate, r.CertificateRequest)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	// The key is noted last, so that a request which is wrong changes nothing.
	next := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	if err := s.Names.Renew(ctx, caller.Role, caller.Name, caller.Key(), next); errors.Is(err, ErrRemoved) {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	} else if err != nil {
		return nil, status.Errorf(codes.Unavailable, "look up node %s: %v", caller.Name, err)
	}
	s.Logger.Info("certificate renewed", "name", caller.Name, "role", caller.Role)
	return &clusterv1.RenewResponse{Certificate: certificate}, nil
}

// checkRequest says whether a request from who knows whom is fit to be looked
// at and logged.
func checkRequest(r *clusterv1.JoinRequest) error {
	if err := identity.CheckName(r.Name); err != nil {
		return err
	}
	if role := identity.Role(r.Role); role != identity.Server && role != identity.Agent {
		return fmt.Errorf("unknown role %.20q", r.Role)
	}
	for _, field := range []struct {
		name, value string
		max         int
	}{{"address", r.Address, 260}, {"version", r.Version, 128}} {
		if len(field.value) > field.max {
			return fmt.Errorf("the %s has %d characters; at most %d are allowed", field.name, len(field.value), field.max)
		}
	}
	return nil
}

// admit checks who asks, before anything of the request is acted on.
func (s *Service) admit(ctx context.Context, r *clusterv1.JoinRequest) (identity.Token, error) {
	token, err := identity.ParseToken(r.Token)
	if err != nil {
		return token, status.Error(codes.InvalidArgument, err.Error())
	}
	if token.CAHash != identity.CAHash(s.Authority.Certificate) {
		return token, status.Error(codes.Unauthenticated, "the token is for another cluster")
	}
	if err := s.Tokens.Check(ctx, token.Role, token.ID, token.SecretHash()); errors.Is(err, ErrTokenUnknown) {
		return token, status.Error(codes.Unauthenticated, err.Error())
	} else if err != nil {
		return token, status.Errorf(codes.Unavailable, "look up the token: %v", err)
	}
	if err := token.For(identity.Role(r.Role)); err != nil {
		return token, status.Error(codes.PermissionDenied, err.Error())
	}
	return token, nil
}

// enroll makes a machine that was admitted a node.
func (s *Service) enroll(ctx context.Context, role identity.Role, r *clusterv1.JoinRequest) (*clusterv1.JoinResponse, error) {
	csr, err := parseRequest(r.CertificateRequest)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	response := &clusterv1.JoinResponse{
		CaCertificate: s.Authority.CertificatePEM(), ClusterId: s.Authority.ClusterID,
		GossipKey: s.GossipKey, Settings: s.Settings, Servers: s.Servers(), Gossip: s.Gossip(),
	}
	if role == identity.Server {
		err = s.signServer(ctx, r, csr, response)
	} else {
		response.Certificate, err = s.Authority.SignAgent(r.Name, csr.PublicKey)
	}
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	// The name is claimed last, so that a request which is wrong claims none.
	key, err := x509.MarshalPKIXPublicKey(csr.PublicKey)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.Names.Claim(ctx, role, r.Name, sha256.Sum256(key)); errors.Is(err, ErrNameTaken) {
		return nil, status.Errorf(codes.AlreadyExists, "another machine is called %q: choose another name, or remove that node first", r.Name)
	} else if err != nil {
		return nil, status.Errorf(codes.Unavailable, "claim the name %s: %v", r.Name, err)
	}
	return response, nil
}

// signServer makes a control node's certificate and hands over the keys. The
// request's names count here, and only here: who gets the CA's key could sign
// them itself.
func (s *Service) signServer(ctx context.Context, r *clusterv1.JoinRequest, csr *x509.CertificateRequest, response *clusterv1.JoinResponse) error {
	hosts := Hosts{DNSNames: csr.DNSNames, IPs: csr.IPAddresses}
	advertised, _, err := net.SplitHostPort(r.Address)
	if err != nil {
		return fmt.Errorf("the address %q is not host:port", r.Address)
	}
	if advertised == "" {
		advertised = host(ctx)
	}
	hosts.Add(advertised)
	if response.Certificate, err = s.Authority.SignServer(r.Name, hosts, csr.PublicKey); err != nil {
		return err
	}
	response.CaKey, response.ServiceAccountKey, err = s.Authority.Keys()
	return err
}

// host is where a call comes from.
func host(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return ""
	}
	h, _, err := net.SplitHostPort(p.Addr.String())
	if err != nil {
		return p.Addr.String()
	}
	return h
}
