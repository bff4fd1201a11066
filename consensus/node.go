package consensus

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/musterhq/muster/consensus/forward"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// Node is one member of the cluster.
type Node struct {
	cfg    Config
	log    *slog.Logger
	origin uint64 // of this process, in what it proposes

	dir       *dir
	dirLock   sync.Mutex // dir.node
	disk      *disk
	grown     *counted // disk, as raft uses it
	snapshots *snapshotStore
	streams   *streams
	trans     *patient
	raft      *raft.Raft
	raftLog   *raftLogger
	leading   chan bool // raft's word on whether this node leads; raft waits for the reader

	machine  *machine
	progress *progress
	pending  *pending
	metrics  *metrics

	leader watched[raft.Server] // whom raft takes for the leader; empty when nobody
	term   watched[*leadership] // this node's own, nil while it does not lead
	route  watched[route]       // to the leader, nil while there is none

	settled    sync.RWMutex // held for reading while a server is let in
	candidates candidates
	silence    silence
	room       *room
	hung       watched[bool] // the disk does not end a write
	joining    atomic.Int32  // calls of Join

	timers    sync.Mutex
	calmLater *time.Timer

	broken     chan error    // room for one: why this node cannot go on
	stopped    chan struct{} // closed when Run is over
	entries    tasks         // those who wait for what becomes of log entries
	background tasks         // those who end with their connections
}

const (
	transportTimeout = 3 * time.Second
	transportPool    = 8
	// transportInFlight: messages to one follower that are not answered yet. One
	// is being written there, one waits in its socket, and two are on their way.
	transportInFlight = 4
	// Bounds of a graceful stop.
	transferMax = time.Second
	settleMax   = time.Second
	shutdownMax = 3 * time.Second
)

// Open reads Dir and takes part in the cluster from then on. Run must be
// called afterwards, if only with a context that has ended, to release what
// Open took. Errors are one line that says what to do.
func Open(cfg Config) (_ *Node, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg: cfg, log: cfg.Logger.With("component", "consensus"),
		leading:  make(chan bool, 16),
		progress: newProgress(), pending: newPending(), metrics: newMetrics(),
		room:   newRoom(),
		broken: make(chan error, 1), stopped: make(chan struct{}),
	}
	var random [8]byte
	rand.Read(random[:])
	n.origin = binary.LittleEndian.Uint64(random[:])

	if n.dir, err = openDir(cfg); err != nil {
		return nil, fmt.Errorf("consensus: %w", err)
	}
	if err := n.openRaft(); err != nil {
		n.close()
		return nil, fmt.Errorf("consensus: %w", err)
	}
	n.lookForRoom()
	if err := n.metrics.register(n, cfg.Registerer); err != nil {
		n.close()
		return nil, fmt.Errorf("consensus: %w", err)
	}
	return n, nil
}

func (n *Node) openRaft() error {
	cfg := n.cfg
	n.raftLog = newRaftLogger(n.log)
	logger := n.raftLog
	n.disk = &disk{
		store: walStore{n.dir.log, stable{n.dir.stable}}, log: n.dir.log, path: n.dir.path,
		metrics: n.metrics, fail: n.fail, quiet: make(chan struct{}),
	}
	if cfg.wrapStore != nil {
		n.disk.store = cfg.wrapStore(n.disk.store)
	}
	n.grown = &counted{disk: n.disk, growth: &growth{}, grew: make(chan struct{}, 1)}
	n.grown.grew <- struct{}{} // the log may be long already
	snapshots, err := openSnapshots(n.dir.path, logger)
	if err != nil {
		return err
	}
	n.snapshots = snapshots
	n.snapshots.under = &n.disk.under
	n.disk.covered = func() uint64 { index, _, _ := snapshots.newest(); return index }
	n.disk.refused = func() { poke(n.room.look) }
	n.streams = newStreams(cfg.Layer, cfg.Address)
	n.trans = &patient{incoming: newIncoming(), name: cfg.Name, log: n.disk, NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: n.streams, MaxPool: transportPool, MaxRPCsInFlight: transportInFlight, Timeout: transportTimeout, Logger: logger,
	})}
	n.disk.early = n.trans.early.offer
	go n.trans.receive() // ends when the transport is closed
	n.machine = &machine{sm: cfg.StateMachine, origin: n.origin, pending: n.pending, progress: n.progress, fail: n.fail}

	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(cfg.Name)
	// As after quicken: who has just started has no leader to wait for.
	conf.HeartbeatTimeout, conf.ElectionTimeout = cfg.LeaderLease, cfg.LeaderLease
	conf.LeaderLeaseTimeout = cfg.LeaderLease
	conf.CommitTimeout = cfg.Commit / 2 // raft takes up to twice this
	conf.SnapshotInterval, conf.SnapshotThreshold, conf.TrailingLogs = raftSnapshotInterval, raftSnapshotThreshold, trailingAtFirst
	conf.ShutdownOnRemove = false
	conf.NotifyCh = n.leading
	conf.Logger = logger
	conf.NoLegacyTelemetry = true

	return guarded(n.dir.path, func() error {
		used, err := raft.HasExistingState(n.disk, n.disk, snapshots)
		if err != nil {
			return err
		}
		if n.dir.node.Joined && !used {
			return errors.New("this node was a member, but log and snapshots are empty")
		}
		if !used && cfg.Bootstrap {
			self := raft.Server{ID: conf.LocalID, Address: raft.ServerAddress(cfg.Address)}
			if err := raft.BootstrapCluster(conf, n.disk, n.disk, snapshots, n.trans, raft.Configuration{Servers: []raft.Server{self}}); err != nil {
				return err
			}
			used = true
		}
		if used && !n.dir.node.Joined {
			// Bootstrapped now, or a process ended before it wrote this down.
			if err := n.setJoined(); err != nil {
				return err
			}
		}
		if n.raft, err = n.newRaft(conf); err != nil {
			return err
		}
		n.trans.raft.Store(n.raft)
		n.disk.running.Store(true)
		n.quicken()
		if n.dir.node.Joined {
			n.streams.admit()
		}
		return nil
	})
}

// newRaft starts raft on what the directory holds. Raft takes an older snapshot
// if the newest cannot be read, which is too old if the log does not reach
// back to it.
func (n *Node) newRaft(conf *raft.Config) (_ *raft.Raft, err error) {
	path := filepath.Join(n.dir.path, "snapshots")
	missing := func(index uint64) error {
		return damaged(path, fmt.Errorf("no snapshot that can be read reaches to entry %d, where the log begins", index))
	}
	floor := n.dir.log.Floor()
	defer func() {
		if p := recover(); p != nil {
			if err, is := p.(error); is && errors.Is(err, raft.ErrLogNotFound) {
				panic(missing(floor))
			}
			panic(p)
		}
	}()
	r, err := raft.NewRaft(conf, n.machine, n.grown, n.disk, n.snapshots, n.trans)
	if err != nil {
		return nil, err
	}
	if r.AppliedIndex() < floor { // raft applies nothing but a snapshot before it runs
		err := missing(floor)
		_ = r.Shutdown().Error()
		return nil, err
	}
	return r, nil
}

// setJoined writes down that the cluster has taken this node in.
func (n *Node) setJoined() error {
	n.dirLock.Lock()
	defer n.dirLock.Unlock()
	if n.dir.node.Joined {
		return nil
	}
	n.dir.node.Joined = true
	return diskError(n.dir.path, n.dir.writeNode())
}

func (n *Node) joined() bool {
	n.dirLock.Lock()
	defer n.dirLock.Unlock()
	return n.dir.node.Joined
}

// fail ends Run with the first reason given.
func (n *Node) fail(err error) {
	select {
	case n.broken <- err:
	default:
	}
}

// Register adds the services this node offers to other control nodes.
func (n *Node) Register(r grpc.ServiceRegistrar) {
	forward.Register(r, func() forward.Leader {
		if l, _ := n.term.get(); l != nil {
			return l
		}
		return nil
	})
	clusterv1.RegisterMembershipServer(r, &membership{node: n})
}

// Run works until ctx ends, then hands leadership on, stops and returns nil; or
// until the node cannot go on, and says why. It is called once.
func (n *Node) Run(ctx context.Context) error {
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, working := errgroup.WithContext(working)
	g.Go(func() error { n.trackLeadership(working); return nil })
	g.Go(func() error { n.trackLeader(working); return nil })
	g.Go(func() error { n.follow(working); return nil })
	g.Go(func() error { return n.stayMember(working) })
	g.Go(func() error { n.trackSilence(working); return nil })
	g.Go(func() error { n.electAlone(); return nil })
	g.Go(func() error { return n.watchDisk(working) })
	g.Go(func() error { n.watchRoom(working); return nil })
	n.background.start(func() { // not waited for without bound: the disk may hang
		if err := n.dir.log.Run(working); err != nil {
			n.fail(diskError(n.dir.path, fmt.Errorf("prepare the log: %w", err)))
		}
	})
	g.Go(func() error { return n.takeSnapshots(working) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			n.handOver(working)
			stop()
			return nil
		case err := <-n.broken:
			return err
		case <-working.Done():
			return nil
		}
	})
	err := g.Wait()
	close(n.stopped)
	n.close()
	if err != nil {
		return fmt.Errorf("consensus: %w", err)
	}
	return nil
}

// electAlone makes the only voter lead at once: there is nobody to wait for.
func (n *Node) electAlone() {
	voters := votersOf(n.raft.GetConfiguration().Configuration())
	if len(voters) != 1 || string(voters[0].ID) != n.cfg.Name {
		return
	}
	req := raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(n.cfg.Name), Addr: []byte(n.cfg.Address),
	}}
	err := n.trans.TimeoutNow(raft.ServerID(n.cfg.Name), raft.ServerAddress(n.cfg.Address), &req, &raft.TimeoutNowResponse{})
	if err != nil { // it is elected a little later then
		n.log.Debug("no election at once", "error", err)
	}
}

// handOver gives leadership to another voter before this node goes.
func (n *Node) handOver(ctx context.Context) {
	if l, _ := n.term.get(); l == nil || len(votersOf(n.raft.GetConfiguration().Configuration())) < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, transferMax)
	defer cancel()
	if err := n.TransferLeadership(ctx); err != nil {
		n.log.Info("leadership was not handed over before stopping", "reason", err)
		return
	}
	// The term also ends as soon as a follower is in a later one, and who is to be
	// elected there may need this node's vote.
	for {
		leader, changed := n.leader.get()
		if leader.ID != "" && string(leader.ID) != n.cfg.Name {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			n.log.Info("no other leader was heard of before stopping")
			return
		}
	}
}

// close releases all that Open took. Raft keeps running until those who wait
// for its word have it, because on shutdown it forgets some of them.
func (n *Node) close() {
	n.timers.Lock()
	if n.calmLater != nil {
		n.calmLater.Stop()
	}
	n.timers.Unlock()
	if n.raft != nil {
		n.entries.end(settleMax)
	}
	if n.raftLog != nil {
		n.raftLog.seen.quiet.Store(true)
	}
	var down raft.Future
	if n.raft != nil {
		down = n.raft.Shutdown()
	}
	if n.trans != nil {
		_ = n.trans.Close() // closes the streams
	}
	if n.disk != nil {
		close(n.disk.quiet)
	}
	settled := true
	if down != nil {
		settled = within(shutdownMax, func() { _ = down.Error() })
	}
	n.background.end(settleMax)
	if settled { // else a write hangs in it
		within(shutdownMax, n.dir.close)
	}
}
