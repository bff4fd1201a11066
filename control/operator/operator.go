// Package operator answers the muster command: who the cluster's members are
// and which join tokens there are (this file), what the store holds (KV), and
// which control nodes vote and lead (Raft). It leaves the answers to those who
// know (consensus, gossip, the token table, the store) and who may ask to the
// transport, which lets in administrators and control nodes only.
package operator

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// View is the state of the control plane as one node sees it.
type View struct {
	ClusterID string
	// Name of the node that answers.
	Name string
	// Leader and LeaderAddress are empty when there is none that this node hears.
	Leader, LeaderAddress string
	HasQuorum             bool
	// Term and the indexes are of this node's own log.
	Term, LastIndex, AppliedIndex uint64
	Servers                       []Server
	Gossip                        []Member
}

const stateAlive = "alive" // gossip's word

// state is what gossip says of a node.
func (v View) state(name string) string {
	for _, m := range v.Gossip {
		if m.Name == name {
			return m.State
		}
	}
	return "unknown"
}

func (v View) voters() int {
	voters := 0
	for _, server := range v.Servers {
		if server.Voter {
			voters++
		}
	}
	return voters
}

// warning says what is wrong with the control plane, in a sentence.
func (v View) warning() string {
	voters, alive := v.voters(), 0
	for _, server := range v.Servers {
		if server.Voter && v.state(server.Name) == stateAlive {
			alive++
		}
	}
	switch {
	case !v.HasQuorum:
		return fmt.Sprintf("no quorum: %s can't reach a majority of the %d control nodes (%d seen alive); reads and writes answer 503 until it can", v.Name, voters, alive)
	case alive < voters:
		return fmt.Sprintf("%d of %d control nodes are not alive; %d more may fail before the cluster stops", voters-alive, voters, max(0, alive-(voters/2+1)))
	case voters%2 == 0:
		return fmt.Sprintf("%d control nodes tolerate no more failures than %d: add or remove one", voters, voters-1)
	}
	return ""
}

// Server is a control node in the replicated configuration.
type Server struct {
	Name, Address string
	Voter         bool
}

// Member is a node as gossip knows it.
type Member struct {
	Name, Role, Address, State, Version string
}

// Token is a token without its secret.
type Token struct {
	// ID tells it from others. New tokens get one.
	ID string
	// Role is what it admits: a server or an agent to the cluster, or with api
	// its bearer to the Kubernetes API as User with Groups.
	Role    string
	User    string
	Groups  []string
	Created int64 // Unix seconds
}

// ErrNoToken means that there is no token with that ID.
var ErrNoToken = errors.New("no such token")

// Tokens keeps tokens.
type Tokens interface {
	Create(ctx context.Context, t Token) (token string, err error)
	List(ctx context.Context) ([]Token, error)
	// Delete answers ErrNoToken when there is none with that ID.
	Delete(ctx context.Context, id string) error
}

// Service is cluster.v1.Operator on one control node.
type Service struct {
	clusterv1.UnimplementedOperatorServer
	view   func() View
	tokens Tokens
}

// New makes the service from what it reports; view must not block.
func New(view func() View, tokens Tokens) *Service {
	return &Service{view: view, tokens: tokens}
}

// Register adds the service to a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) { clusterv1.RegisterOperatorServer(r, s) }

// Members joins what raft and gossip know. It answers without a leader, too.
func (s *Service) Members(context.Context, *clusterv1.MembersRequest) (*clusterv1.MembersResponse, error) {
	return members(s.view()), nil
}

func members(v View) *clusterv1.MembersResponse {
	byName := map[string]*clusterv1.Member{}
	for _, m := range v.Gossip {
		byName[m.Name] = &clusterv1.Member{Name: m.Name, Role: m.Role, Address: m.Address, State: m.State, Version: m.Version}
	}
	for _, server := range v.Servers {
		m := byName[server.Name]
		if m == nil {
			// In the configuration, never heard: say so rather than hide it.
			m = &clusterv1.Member{Name: server.Name, Role: "server", Address: server.Address, State: "unknown"}
			byName[server.Name] = m
		}
		m.Voter = server.Voter
		m.Leader = server.Name == v.Leader
	}
	response := &clusterv1.MembersResponse{
		Leader: v.Leader, Quorum: v.HasQuorum, AnsweredBy: v.Name, ClusterId: v.ClusterID,
		Warning: v.warning(),
	}
	for _, m := range byName {
		response.Members = append(response.Members, m)
	}
	sort.Slice(response.Members, func(i, j int) bool {
		a, b := response.Members[i], response.Members[j]
		if a.Role != b.Role {
			return a.Role > b.Role // servers first
		}
		return a.Name < b.Name
	})
	return response
}

// CreateToken makes a token.
func (s *Service) CreateToken(ctx context.Context, r *clusterv1.CreateTokenRequest) (*clusterv1.CreateTokenResponse, error) {
	switch {
	case r.Role != "server" && r.Role != "agent" && r.Role != "api":
		return nil, status.Errorf(codes.InvalidArgument, "role %q: want server, agent or api", r.Role)
	case r.Role == "api" && r.User == "":
		return nil, status.Error(codes.InvalidArgument, "user: an api token needs the name of its bearer")
	case r.Role != "api" && (r.User != "" || len(r.Groups) > 0):
		return nil, status.Errorf(codes.InvalidArgument, "user, groups: only api tokens have them, and the role is %s", r.Role)
	}
	token, err := s.tokens.Create(ctx, Token{Role: r.Role, User: r.User, Groups: r.Groups})
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &clusterv1.CreateTokenResponse{Token: token}, nil
}

// ListTokens lists the tokens without their secrets.
func (s *Service) ListTokens(ctx context.Context, _ *clusterv1.ListTokensRequest) (*clusterv1.ListTokensResponse, error) {
	tokens, err := s.tokens.List(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	response := &clusterv1.ListTokensResponse{}
	for _, t := range tokens {
		response.Tokens = append(response.Tokens, &clusterv1.JoinToken{
			Id: t.ID, Role: t.Role, User: t.User, Groups: t.Groups, Created: t.Created,
		})
	}
	return response, nil
}

// DeleteToken revokes a token.
func (s *Service) DeleteToken(ctx context.Context, r *clusterv1.DeleteTokenRequest) (*clusterv1.DeleteTokenResponse, error) {
	switch err := s.tokens.Delete(ctx, r.Id); {
	case errors.Is(err, ErrNoToken):
		return nil, status.Errorf(codes.NotFound, "%v: %q", err, r.Id)
	case err != nil:
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &clusterv1.DeleteTokenResponse{}, nil
}
