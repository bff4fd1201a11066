package control

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc/codes"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/component-base/metrics/legacyregistry"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/consensus/gossip"
	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/control/apiserver"
	"github.com/musterhq/muster/control/apiserver/openapi"
	"github.com/musterhq/muster/control/autopilot"
	"github.com/musterhq/muster/control/dispatch"
	"github.com/musterhq/muster/control/operator"
	"github.com/musterhq/muster/control/reach"
	"github.com/musterhq/muster/control/store"
)

// The parts declare what they need of each other without knowing each other;
// here one is made to fit the other.

// failures tells the API server what the log's errors mean to a client.
var failures = apiserver.Failures{
	Unavailable:     []error{consensus.ErrNoLeader, consensus.ErrNotLeader, consensus.ErrBusy, consensus.ErrStopped, store.ErrNoKeyring},
	OutcomeUnknown:  []error{consensus.ErrOutcomeUnknown},
	TooLarge:        []error{consensus.ErrTooLarge},
	NoSpace:         []error{consensus.ErrNoSpace},
	NodeUnreachable: []error{dispatch.ErrNoSession},
}

// refusals tell the operator's services the same, in gRPC's words: UNAVAILABLE
// is only what was certainly not done.
var refusals = operator.Failures{
	// First, as it may wrap what ended the wait.
	{Err: consensus.ErrOutcomeUnknown, Code: codes.Unknown},
	{Err: consensus.ErrNotLeader, Code: codes.FailedPrecondition},
	{Err: consensus.ErrNoLeader, Code: codes.Unavailable},
	{Err: consensus.ErrBusy, Code: codes.Unavailable},
	{Err: consensus.ErrNoSpace, Code: codes.ResourceExhausted},
	{Err: consensus.ErrStopped, Code: codes.Unavailable},
	{Err: consensus.ErrTooLarge, Code: codes.InvalidArgument},
	{Err: consensus.ErrRefused, Code: codes.Aborted},
	{Err: consensus.ErrNameTaken, Code: codes.AlreadyExists},
	{Err: autopilot.ErrSettings, Code: codes.InvalidArgument},
	{Err: store.ErrFormat, Code: codes.Aborted},
	{Err: store.ErrNoKeyring, Code: codes.Unavailable},
}

// kubernetesVersion is the version of the API that is served: that of the
// linked Kubernetes packages, so that the two can't drift, marked as ours.
func kubernetesVersion(muster string) version.Info {
	served := "v1.37.1"
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, m := range build.Deps {
			if m.Path == "k8s.io/kubernetes" {
				served = m.Version
			}
		}
	}
	parts := strings.SplitN(strings.TrimPrefix(served, "v"), ".", 3)
	return version.Info{
		Major: parts[0], Minor: parts[1], GitVersion: served + "+muster", GitCommit: muster,
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}

// liveness is gossip as dispatch asks for it.
type liveness struct{ *gossip.Gossip }

func (l liveness) Alive(node string) bool {
	m, known := l.Member(node)
	return known && m.Role == string(identity.Agent) && m.State == gossip.Alive
}

// listenForBeats opens the UDP port of the number of a TCP port.
func listenForBeats(tcp net.Addr) (*net.UDPConn, error) {
	at, err := netip.ParseAddrPort(tcp.String())
	if err != nil {
		return nil, err
	}
	return net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
}

// services connects admission with webhooks in the cluster. Agents are heard once
// the node is open; admission is made before.
type services struct{ server *Server }

func (c services) Service(ctx context.Context, namespace, name string, port int32) (net.Conn, error) {
	return c.server.reach.Service(ctx, namespace, name, port)
}

// shown are the metrics of upstream's admission packages that /metrics shows. They
// count in a registry of the process' own, which has much else.
var shown = []string{"apiserver_admission_", "apiserver_validating_admission_policy_", "apiserver_mutating_admission_policy_", "apiserver_cel_", "pod_security_"}

func admissionMetrics() ([]*dto.MetricFamily, error) {
	all, err := legacyregistry.DefaultGatherer.Gather()
	return slices.DeleteFunc(all, func(family *dto.MetricFamily) bool {
		return !slices.ContainsFunc(shown, func(prefix string) bool { return strings.HasPrefix(family.GetName(), prefix) })
	}), err
}

// document is the OpenAPI document of a group version that is built in.
func document(gv schema.GroupVersion) ([]byte, error) {
	documents, err := openapi.New()
	if err != nil {
		return nil, err
	}
	if gv.Group == "" {
		return documents.Document("api/" + gv.Version)
	}
	return documents.Document("apis/" + gv.String())
}

// quiet sends net/http's own complaints, which any client can cause, to Debug.
func quiet(l *slog.Logger) *log.Logger {
	return slog.NewLogLogger(l.Handler(), slog.LevelDebug)
}

// probeAPIService asks a service whether it answers; a reason is upstream's word
// for why it does not.
func (s *Server) probeAPIService(ctx context.Context, service *apiregistrationv1.APIService) (reason string, err error) {
	err = s.aggregate.Probe(ctx, service)
	switch {
	case err == nil:
		return "", nil
	case errors.Is(err, reach.ErrNoService):
		return "ServiceNotFound", err
	case errors.Is(err, reach.ErrNoPort):
		return "ServicePortError", err
	case errors.Is(err, reach.ErrNoEndpoints):
		return "MissingEndpoints", err
	}
	return "FailedDiscoveryCheck", err
}
