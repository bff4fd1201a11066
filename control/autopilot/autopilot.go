// Package autopilot keeps the set of control nodes sound: who may be a member,
// and who was removed and stays out; dead ones that are taken out; the format
// of commands that all of them read; how well each of them is. Agreeing on a
// change is the business of consensus, and who is alive that of gossip.
package autopilot

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/control/store"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// Node is consensus.Node as autopilot uses it.
type Node interface {
	Status() consensus.Status
	// Silent says for how long members have not answered this leader.
	Silent() map[string]time.Duration
	Describe(ctx context.Context, name, address string) (*clusterv1.DescribeResponse, error)
	WhileSettled(func([]consensus.Server) error) error
	AddServer(ctx context.Context, name, address string) (voter bool, err error)
	RemoveServer(ctx context.Context, name string) error
}

// Config is what autopilot looks at. The functions must not block.
type Config struct {
	Store *store.Store
	Node  Node
	// State is what gossip says of a node, and since when: "alive", "dead",
	// "left", or "unknown" if it was never heard.
	State func(name string) (state string, since time.Time)
	// Keys are the SHA-256 of the public keys of the machine that has a name,
	// because it joined with a token; none if nobody has.
	Keys   func(name string) [][sha256.Size]byte
	Logger *slog.Logger
}

// Autopilot is of one control node; what it changes only the leader can.
type Autopilot struct {
	Config
	mu   sync.Mutex
	seen map[string]verdict // of the last look at each server's health
}

const (
	stateAlive   = "alive" // gossip's words
	stateUnknown = "unknown"
)

// New makes the autopilot of a control node.
func New(cfg Config) *Autopilot {
	return &Autopilot{Config: cfg, seen: map[string]verdict{}}
}

// dutyPause is between two looks of the leader's duty. A look asks nobody
// unless there is a format to raise, and writes nothing unless something is
// to be changed.
const dutyPause = 2 * time.Second

// Run is a duty of the leader: it raises the format of commands once all
// control nodes read a newer one, and removes those that are dead for good,
// one at a time. st writes through the leader's term.
func (a *Autopilot) Run(ctx context.Context, st *store.Store) error {
	tick := time.NewTicker(dutyPause)
	defer tick.Stop()
	said := map[string]string{}
	say := func(what string, err error) {
		if text := errorText(err); text != said[what] {
			said[what] = text
			if err != nil && ctx.Err() == nil {
				a.Logger.Warn(what, "error", err)
			}
		}
	}
	for {
		say("format of commands not raised", a.raiseFormat(ctx, st))
		say("dead control nodes not removed", a.cleanUp(ctx, st))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// described is what a server says of itself, or why it says nothing.
type described struct {
	*clusterv1.DescribeResponse
	err error
}

// describe asks all servers at once.
func (a *Autopilot) describe(ctx context.Context, servers []consensus.Server) map[string]described {
	answers := make([]described, len(servers))
	var group errgroup.Group
	for i, s := range servers {
		group.Go(func() error {
			who, err := a.Node.Describe(ctx, s.Name, s.Address)
			answers[i] = described{who, err}
			return nil
		})
	}
	_ = group.Wait() // errors are in the answers
	byName := map[string]described{}
	for i, s := range servers {
		byName[s.Name] = answers[i]
	}
	return byName
}

// Describe asks every configured control node what it is. Those that do not
// answer within a second are not in the result.
func (a *Autopilot) Describe(ctx context.Context) map[string]*clusterv1.DescribeResponse {
	answers := map[string]*clusterv1.DescribeResponse{}
	for name, it := range a.describe(ctx, a.Node.Status().Servers) {
		if it.err == nil {
			answers[name] = it.DescribeResponse
		}
	}
	return answers
}
