// Command node is what of a control node a format of commands goes through: the
// log, the state machine, the store, autopilot and the operator's services, as
// package control joins them, without Kubernetes. Package test/upgrade builds it
// twice, as it is and with the tag nextformat, which stands for the next version.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/transport"
	"github.com/musterhq/muster/control/autopilot"
	"github.com/musterhq/muster/control/operator"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/fsm"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

var failures = operator.Failures{
	{Err: consensus.ErrOutcomeUnknown, Code: codes.Unknown},
	{Err: consensus.ErrNotLeader, Code: codes.FailedPrecondition},
	{Err: consensus.ErrNoLeader, Code: codes.Unavailable},
	{Err: consensus.ErrBusy, Code: codes.Unavailable},
	{Err: consensus.ErrStopped, Code: codes.Unavailable},
	{Err: consensus.ErrRefused, Code: codes.Aborted},
}

func run() error {
	dir := flag.String("dir", "", "directory with the node's identity")
	address := flag.String("address", "", "host:port")
	bootstrap := flag.Bool("bootstrap", false, "make a new cluster if the directory holds no log")
	join := flag.String("join", "", "addresses to join through, separated by commas")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))

	id, err := identity.Load(*dir)
	if err != nil {
		return err
	}
	mux, err := transport.Listen(*address, id)
	if err != nil {
		return err
	}
	peers := &peers{id: id, conns: map[string]*grpc.ClientConn{}}
	machine := fsm.New(fsm.Config{Logger: log})
	var pilot *autopilot.Autopilot
	node, err := consensus.Open(consensus.Config{
		Name: id.Name, ClusterID: id.ClusterID, Dir: *dir, Address: *address, Bootstrap: *bootstrap,
		StateMachine: machine, Layer: mux.Layer(*address), Dial: peers.dial,
		Version: fmt.Sprintf("v%d", fsm.Format), Format: fsm.Format,
		Seeds:       func() []string { return strings.Split(*join, ",") },
		Admit:       func(ctx context.Context, c consensus.Candidate) error { return pilot.Admit(ctx, c) },
		StableAfter: func(voters int) time.Duration { return pilot.StableAfter(voters) },
		Logger:      log,
	})
	if err != nil {
		return err
	}
	st := store.New(node, machine)
	pilot = autopilot.New(autopilot.Config{
		Store: st, Node: node, Logger: log,
		State: func(string) (string, time.Time) { return "unknown", time.Time{} },
		Keys:  func(string) [][sha256.Size]byte { return nil },
	})
	view := func() operator.View {
		s := node.Status()
		v := operator.View{ClusterID: id.ClusterID, Name: s.Name, Leader: s.Leader, LeaderAddress: s.LeaderAddress, HasQuorum: s.HasQuorum}
		for _, it := range s.Servers {
			v.Servers = append(v.Servers, operator.Server{Name: it.Name, Address: it.Address, Voter: it.Voter})
			v.Gossip = append(v.Gossip, operator.Member{Name: it.Name, State: "alive"})
		}
		return v
	}
	server := grpc.NewServer(transport.ServerOptions()...)
	node.Register(server)
	operator.NewKV(st, failures).Register(server)
	operator.NewRaft(view, node, pilot, failures).Register(server)

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return node.Run(ctx) })
	g.Go(func() error { return st.WatchFormat(ctx) })
	g.Go(func() error {
		duties := []consensus.Duty{{Name: "autopilot", Run: func(ctx context.Context, term *consensus.Term) error {
			return pilot.Run(ctx, st.WithLog(term))
		}}}
		return node.WhileLeader(ctx, append(duties, newDuties(st, log)...)...)
	})
	g.Go(func() error {
		if *bootstrap {
			return nil
		}
		err := node.Join(ctx, strings.Split(*join, ","))
		if ctx.Err() != nil {
			return nil
		}
		return err
	})
	g.Go(func() error {
		if err := server.Serve(mux.GRPC()); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		server.Stop()
		return nil
	})
	g.Go(func() error { return mux.Run(ctx) })
	return g.Wait()
}

// peers keeps one connection to each other node.
type peers struct {
	id    *identity.Identity
	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
}

func (p *peers) dial(_ context.Context, _, address string) (grpc.ClientConnInterface, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if conn := p.conns[address]; conn != nil {
		return conn, nil
	}
	conn, err := transport.DialGRPC(address, p.id)
	if err == nil {
		p.conns[address] = conn
	}
	return conn, err
}
