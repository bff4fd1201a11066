package transport

import (
	"context"
	"strings"

	"github.com/musterhq/muster/consensus/identity"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type rule struct {
	who    string // for the answer to those who may not
	allows func(Caller) bool
}

var (
	servers          = rule{"control nodes", func(c Caller) bool { return c.Role == identity.Server }}
	serversAndAdmins = rule{"control nodes and administrators", func(c Caller) bool { return c.Role == identity.Server || c.Admin() }}
	agents           = rule{"compute nodes", func(c Caller) bool { return c.Role == identity.Agent }}
	nodes            = rule{"nodes", func(c Caller) bool { return c.Role != "" }}
)

// rules say who may call what, by service or by method. Whatever is not here
// nobody may call.
var rules = map[string]rule{
	clusterv1.Log_ServiceDesc.ServiceName:        servers,
	clusterv1.Sessions_ServiceDesc.ServiceName:   servers,
	clusterv1.Membership_ServiceDesc.ServiceName: serversAndAdmins,
	clusterv1.Operator_ServiceDesc.ServiceName:   serversAndAdmins,
	clusterv1.KV_ServiceDesc.ServiceName:         serversAndAdmins,
	clusterv1.Raft_ServiceDesc.ServiceName:       serversAndAdmins,
	clusterv1.Snapshot_ServiceDesc.ServiceName:   serversAndAdmins,
	clusterv1.Keyring_ServiceDesc.ServiceName:    serversAndAdmins,
	clusterv1.Scheduler_ServiceDesc.ServiceName:  serversAndAdmins,
	agentv1.Agent_ServiceDesc.ServiceName:        agents,
	clusterv1.Join_Renew_FullMethodName:          nodes,
}

// open is the one method for callers without a certificate: the token in the
// request is what admits them.
const open = clusterv1.Join_Join_FullMethodName

// Authorize checks every call against the caller's certificate before the
// service sees it. Services find the caller with CallerFrom.
func Authorize() (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	unary := func(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		ctx, err := authorize(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		return next(ctx, request)
	}
	stream := func(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		ctx, err := authorize(stream.Context(), info.FullMethod)
		if err != nil {
			return err
		}
		return next(service, callerStream{stream, ctx})
	}
	return unary, stream
}

func authorize(ctx context.Context, method string) (context.Context, error) {
	caller, known := CallerFrom(ctx)
	if known {
		ctx = NewContext(ctx, caller)
	}
	if method == open {
		return ctx, nil
	}
	if !known {
		return nil, status.Error(codes.Unauthenticated, "a certificate of this cluster is needed")
	}
	rule, ok := rules[method]
	if !ok {
		service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
		rule, ok = rules[service]
	}
	if !ok {
		return nil, status.Errorf(codes.PermissionDenied, "%s is open to nobody", method)
	}
	if !rule.allows(caller) {
		return nil, status.Errorf(codes.PermissionDenied, "%s is for %s, not for %q", method, rule.who, caller.Certificate.Subject.CommonName)
	}
	return ctx, nil
}

type callerStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s callerStream) Context() context.Context { return s.ctx }
