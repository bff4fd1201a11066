// Package consensus makes control nodes agree on one log of commands and on
// who leads. What the commands mean is the state machine's business; who the
// nodes are and how their connections are secured is the transport's.
//
// A Node proposes on any member and answers once the command is committed and
// applied here, so a caller reads its own writes; ReadBarrier makes local reads
// linearizable; WhileLeader runs what only the leader may do. DESIGN.md says
// why it is built the way it is.
package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/musterhq/muster/consensus/forward"
	"github.com/musterhq/muster/consensus/wal"
)

var (
	// ErrNotLeader is answered by what only the leader can do. Nothing was applied.
	ErrNotLeader = forward.ErrNotLeader
	// ErrNoLeader: no leader with a quorum was reachable within Config.LeaderWait. Nothing was applied.
	ErrNoLeader = errors.New("no leader: a quorum of control nodes is not reachable")
	// ErrOutcomeUnknown: the command was handed to a leader and may or may not
	// have been applied, now or later. Read back before trying again.
	ErrOutcomeUnknown = errors.New("outcome unknown: the command may or may not have been applied")
	// ErrTooLarge: a command is larger than CommandBytesMax.
	ErrTooLarge = errors.New("command is too large")
	// ErrBusy: the leader has more commands waiting than it will hold. Nothing was applied.
	ErrBusy = forward.ErrBusy
	// ErrNoSpace: the disks of too many control nodes are full. Nothing was
	// applied; reads go on, and writes do by themselves once there is room.
	ErrNoSpace = forward.ErrNoSpace
	// ErrStopped: this node has been stopped, or could not go on.
	ErrStopped = errors.New("this control node has stopped")
	// ErrForeign: a node or a directory belongs to another cluster.
	ErrForeign = errors.New("belongs to another cluster")
	// ErrNameTaken: another live node has this name.
	ErrNameTaken = errors.New("another node with this name is alive")
	// ErrOtherName: the control node at an address is another than the one meant.
	ErrOtherName = errors.New("another control node is at that address")
	// ErrRefused: Config.Admit does not let the node in. Asking again does not help.
	ErrRefused = errors.New("the cluster does not take this node in")
)

// CommandBytesMax bounds one command, so that one always fits into a gRPC
// message of the default size.
const CommandBytesMax = 3<<20 + 512<<10

// MultiplierMax bounds Config.Multiplier: a leader that is lost should be missed
// within seconds all the same.
const MultiplierMax = 20

// StateMachine is what the log is applied to. Calls never overlap, except that
// the function Snapshot returns runs beside later calls of Apply.
type StateMachine interface {
	// Apply carries out the commands of one log entry, in order, and returns
	// their answers; that of a command is only needed where wanted says so. It
	// must do the same on every node, however commands are spread over
	// entries, and must keep nothing of cmds or wanted. An error means that
	// this node cannot know the right state any more: answers then has as many
	// as were carried out before the one that it is about, nothing further is
	// applied, and the node stops.
	Apply(cmds [][]byte, wanted []bool) (answers [][]byte, err error)
	// Snapshot is quick; the function it returns writes the state as it was.
	Snapshot() (func(io.Writer) error, error)
	// Restore replaces the whole state.
	Restore(io.Reader) error
}

// Config says who this node is and what it stands on.
type Config struct {
	// Name tells this node from the others for good. ClusterID tells its
	// cluster from every other. Both are written into Dir at first use and
	// checked from then on.
	Name, ClusterID string
	// Dir holds everything below Dir/raft.
	Dir string
	// Address is the host:port at which other control nodes reach this one.
	Address string

	StateMachine StateMachine
	// Disk is what the log and raft's promises are kept on; nil: the machine's own.
	Disk wal.Disk
	// Layer carries raft's own connections. The node closes it.
	Layer raft.StreamLayer
	// Dial returns a connection to another control node's gRPC services. It is
	// called for each use: keep connections, and let them not wait long (tens
	// of milliseconds) before they try a dead address again. The name is empty
	// when only the address is known.
	Dial func(ctx context.Context, name, address string) (grpc.ClientConnInterface, error)

	// Version is told to who asks (Describe), and Format, the newest format of
	// commands that StateMachine reads, also to the leader. 0: 1.
	Version string
	Format  uint32
	// Seeds lists addresses, host:port, of control nodes to ask beside the members
	// that this node knows. nil: none.
	Seeds func() []string
	// Admit is asked on the leader whenever a server says that it is or wants to
	// be a member, which each does when it starts and then when it hears no
	// leader. An error that wraps ErrRefused is final: the server stops and says
	// it. After any other it asks again. Must be quick. nil: everybody may.
	Admit func(ctx context.Context, c Candidate) error
	// StableAfter is how long a server that has caught up must have been in
	// steady contact before it votes, in a cluster of so many voters. nil: no time.
	StableAfter func(voters int) time.Duration

	// Bootstrap makes a fresh Dir the first node of a new cluster. Without it
	// a fresh node waits for Join. It does nothing to a directory in use.
	Bootstrap bool

	// Heartbeat is how long a follower waits for the leader before it asks for
	// an election. Default 400 ms.
	Heartbeat time.Duration
	// Election is how long a candidate waits for votes. Default: Heartbeat.
	Election time.Duration
	// LeaderLease is how long a leader goes on without a quorum, and what
	// followers shorten Heartbeat to once the leader's connection is gone; the
	// leader sends three heartbeats in that time. Default 150 ms.
	LeaderLease time.Duration
	// Commit bounds how late an idle follower learns of a commit if the
	// message that normally says so at once is lost. Default 1 s.
	Commit time.Duration
	// LeaderWait bounds the wait for a leader, and for the fate of a command
	// whose leader was lost. Default 1.5 s times Multiplier.
	LeaderWait time.Duration
	// Multiplier makes Heartbeat, Election, LeaderLease and Commit as many times
	// as long, given or default, for slow or far machines. Default 1, at most MultiplierMax.
	Multiplier int
	// DiskDeadline is how long one write to the log may take before the node
	// gives up on its disk. Default 10 s.
	DiskDeadline time.Duration

	// SnapshotBytes: a snapshot is due when the log has grown by this since the
	// last one, or by that one's size if that is more. An entry counts 512 bytes
	// more than its data. Half as much is kept beside for followers that are a
	// little behind. Default 64 MiB.
	SnapshotBytes int64
	// SnapshotEntries and TrailingEntries bound the same by numbers of entries. 0: they do not.
	SnapshotEntries, TrailingEntries uint64

	Logger     *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics

	// wrapStore puts a failing disk under a test's node.
	wrapStore func(store) store
}

func (c Config) withDefaults() (Config, error) {
	for _, required := range []struct {
		what string
		ok   bool
	}{
		{"Name", c.Name != ""}, {"ClusterID", c.ClusterID != ""}, {"Dir", c.Dir != ""},
		{"Address", c.Address != ""}, {"StateMachine", c.StateMachine != nil},
		{"Layer", c.Layer != nil}, {"Dial", c.Dial != nil},
	} {
		if !required.ok {
			return c, fmt.Errorf("consensus: Config.%s is required", required.what)
		}
	}
	duration := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	duration(&c.Heartbeat, 400*time.Millisecond)
	duration(&c.Election, c.Heartbeat)
	duration(&c.LeaderLease, min(150*time.Millisecond, c.Heartbeat))
	duration(&c.Commit, time.Second)
	if c.Multiplier == 0 {
		c.Multiplier = 1
	}
	if c.Multiplier < 1 || c.Multiplier > MultiplierMax {
		return c, fmt.Errorf("consensus: Config.Multiplier is %d: want 1 to %d", c.Multiplier, MultiplierMax)
	}
	for _, d := range []*time.Duration{&c.Heartbeat, &c.Election, &c.LeaderLease, &c.Commit} {
		*d *= time.Duration(c.Multiplier)
	}
	duration(&c.LeaderWait, time.Duration(c.Multiplier)*1500*time.Millisecond)
	duration(&c.DiskDeadline, 10*time.Second)
	if c.Disk == nil {
		c.Disk = wal.OS
	}
	if c.SnapshotBytes == 0 {
		c.SnapshotBytes = 64 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Format = max(c.Format, 1)
	if c.Seeds == nil {
		c.Seeds = func() []string { return nil }
	}
	if c.Admit == nil {
		c.Admit = func(context.Context, Candidate) error { return nil }
	}
	if c.StableAfter == nil {
		c.StableAfter = func(int) time.Duration { return 0 }
	}
	return c, nil
}

// Status is what one node knows, with or without a leader.
type Status struct {
	Name string
	// State is raft's word: Follower, Candidate, Leader or Shutdown.
	State string
	Term  uint64
	// Leader and LeaderAddress are empty when this node knows of none.
	Leader, LeaderAddress string
	// HasQuorum: this node leads with a quorum behind it, or hears a leader.
	HasQuorum bool
	// LastIndex is the newest log entry on this node's disk; AppliedIndex the newest applied here.
	LastIndex, AppliedIndex uint64
	// LastContact is how long ago this node heard a leader; 0 on the leader
	// itself, negative if it never did.
	LastContact time.Duration
	Servers     []Server
	// DiskFull: this node stores no more commands until there is room. DiskFree
	// is what the file system of its directory has left, LogBytes what its log takes.
	DiskFull bool
	DiskFree uint64
	LogBytes int64
}

// Server is one control node in the replicated configuration.
type Server struct {
	Name, Address string
	Voter         bool
}

// Candidate is a server that says that it is or wants to be a member.
type Candidate struct {
	Name, Address string
	// Key is the SHA-256 of the public key (DER, PKIX) in its certificate; empty
	// when an administrator speaks for it.
	Key []byte
	// Format is the newest format of commands that it reads; 0: not known.
	Format uint32
	// Member: the configuration has the name; Moved: at another address.
	Member, Moved bool
}

// Duty is work that only the leader does.
type Duty struct {
	Name string
	// Run works until ctx ends, which it does when leadership is lost. It may
	// return nil earlier when its work is done. An error while leading makes
	// the node hand leadership on.
	Run func(ctx context.Context, term *Term) error
}
