package control

import (
	"context"
	"log"
	"log/slog"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/consensus/gossip"
	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/control/apiserver"
	"github.com/musterhq/muster/control/dispatch"
	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// The parts declare what they need of each other without knowing each other;
// here one is made to fit the other.

// failures tells the API server what the log's errors mean to a client.
var failures = apiserver.Failures{
	Unavailable:    []error{consensus.ErrNoLeader, consensus.ErrNotLeader, consensus.ErrBusy, consensus.ErrStopped},
	OutcomeUnknown: []error{consensus.ErrOutcomeUnknown},
	TooLarge:       []error{consensus.ErrTooLarge},
}

// liveness is gossip as dispatch asks for it.
type liveness struct{ *gossip.Gossip }

func (l liveness) Alive(node string) bool {
	for _, m := range l.Members() {
		if m.Name == node {
			return m.Role == string(identity.Agent) && m.State == gossip.Alive
		}
	}
	return false
}

// streams is dispatch as the API server asks for it.
type streams struct{ d *dispatch.Dispatcher }

func (s streams) Open(ctx context.Context, node string, request *agentv1.OpenStream) (apiserver.Stream, error) {
	return s.d.Open(ctx, node, request)
}

// podNodes tells the authorizer where a pod runs.
type podNodes struct{ store *store.Store }

func (p podNodes) NodeOf(namespace, name string) (string, bool) {
	item, _, err := p.store.Table(store.Pods).GetItem(namespace, name)
	if err != nil {
		return "", false
	}
	return item.Fields.Get("spec.nodeName"), true
}

// quiet sends net/http's own complaints, which any client can cause, to Debug.
func quiet(l *slog.Logger) *log.Logger {
	return slog.NewLogLogger(l.Handler(), slog.LevelDebug)
}
