package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/agent/session"
	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/transport"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// hollowCommand as the first argument makes this program Muster's compute nodes
// instead of the bench: in a process of their own, so that what they take is not
// counted as the servers' or the clients'.
const hollowCommand = "hollow"

// idlePatience is how long nodes that only hold their session wait for a control
// node before they look for another.
const idlePatience = 30 * time.Second

// joinsAtOnce is how many machines join at the same time.
const joinsAtOnce = 16

// hollowNodes are many compute nodes of a Muster cluster in one process, as far
// as it can tell: machines that have joined, each with a connection and a
// session. None of them gossips, because thousands of members of one gossip
// would take this machine; a session alone is enough to be heard.
type hollowNodes struct {
	first, count int
	zones        []string
	idle         bool // holds the session, and leaves pods alone
	dir          string
	servers      []string
	token        identity.Token
}

func runHollow(ctx context.Context, args []string) error {
	debug.SetGCPercent(clientGarbage)
	var h hollowNodes
	flags := flag.NewFlagSet(hollowCommand, flag.ContinueOnError)
	flags.IntVar(&h.first, "first", 0, "number of the first node")
	flags.IntVar(&h.count, "count", 1, "how many nodes")
	flags.BoolVar(&h.idle, "idle", false, "hold sessions only")
	flags.StringVar(&h.dir, "dir", "", "directory for what they keep")
	zones := flags.String("zones", "", "zones that the nodes are in by turns")
	servers := flags.String("servers", "", "addresses of control nodes")
	if err := flags.Parse(args); err != nil {
		return err
	}
	// The token is a secret, which an argument would show to everybody.
	token, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	if h.token, err = identity.ParseToken(strings.TrimSpace(string(token))); err != nil {
		return err
	}
	h.servers = strings.Split(*servers, ",")
	if *zones != "" {
		h.zones = strings.Split(*zones, ",")
	}
	return h.run(ctx)
}

// run ends when ctx does, or with the first node that fails.
func (h *hollowNodes) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	joining := make(chan struct{}, joinsAtOnce)
	for i := range h.count {
		group.Go(func() error {
			joining <- struct{}{}
			id, err := h.join(ctx, h.first+i)
			<-joining
			if err != nil {
				return err
			}
			return h.live(ctx, h.first+i, id)
		})
	}
	return group.Wait()
}

func (h *hollowNodes) join(ctx context.Context, number int) (*identity.Identity, error) {
	for {
		id, _, err := identity.Join(ctx, identity.JoinOptions{
			Address: h.servers[number%len(h.servers)], Token: h.token, Name: nodeName(number), Role: identity.Agent,
			Advertise: fmt.Sprintf("127.0.0.1:%d", 1+number), Version: "bench",
		})
		if err == nil || ctx.Err() != nil || identity.Permanent(err) {
			return id, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (h *hollowNodes) live(ctx context.Context, number int, id *identity.Identity) error {
	node := nodeOf(number, h.zones)
	dial := func(_ context.Context, address string) (*grpc.ClientConn, error) {
		return transport.DialGRPC(address, id, transport.WithSession())
	}
	log := slog.New(slog.DiscardHandler)
	// Each begins with another control node, as machines that joined one by one do.
	turn := number % len(h.servers)
	servers := append(append([]string{}, h.servers[turn:]...), h.servers[:turn]...)
	dir := filepath.Join(h.dir, node.Name)
	var run func(context.Context) error
	if h.idle {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		s, err := session.New(session.Config{
			// They share the processors with who should answer them, and to connect anew
			// costs both more than to wait.
			Silence: idlePatience, Patience: idlePatience,
			Servers: servers, File: filepath.Join(dir, "servers.json"), Dial: dial, Handler: idle{node}, Version: "bench", Bare: true, Logger: log,
		})
		if err != nil {
			return err
		}
		run = s.Run
	} else {
		a, err := agent.New(agent.Config{
			Name: node.Name, Dir: dir, Servers: servers, Dial: dial, Runtime: agent.Hollow, NodeIP: "127.0.0.1",
			Labels: node.Labels, Capacity: node.Status.Capacity, Version: "bench", Logger: log,
		})
		if err != nil {
			return err
		}
		run = a.Run
	}
	if err := run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w", node.Name, err)
	}
	return nil
}

// idle is a node that hears what should run and runs nothing. It implements
// session.Handler.
type idle struct{ node *corev1.Node }

func (i idle) Node() *corev1.Node                                        { return i.node.DeepCopy() }
func (idle) Welcome(*corev1.Node)                                        {}
func (idle) Put(*corev1.Pod)                                             {}
func (idle) Remove(types.UID)                                            {}
func (idle) Retain(map[types.UID]bool)                                   {}
func (idle) Network([]*agentv1.NodeRoute)                                {}
func (idle) Content(*agentv1.Content)                                    {}
func (idle) Reclaim(*agentv1.ReclaimVolume)                              {}
func (idle) Stream(context.Context, *agentv1.OpenStream, session.Frames) {}
