package consensus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// sentPipeline keeps what is sent and answers when told to.
type sentPipeline struct {
	mu       sync.Mutex
	sent     []*raft.AppendEntriesRequest
	consumer chan raft.AppendFuture
	closed   chan struct{}
	room     chan struct{} // nil: always; else one is taken by each message
}

func newSentPipeline() *sentPipeline {
	return &sentPipeline{consumer: make(chan raft.AppendFuture), closed: make(chan struct{})}
}

func (p *sentPipeline) AppendEntries(args *raft.AppendEntriesRequest, _ *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if p.room != nil {
		select {
		case <-p.room:
		case <-p.closed:
			return nil, raft.ErrPipelineShutdown
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = append(p.sent, args)
	return answered{args, true}, nil
}

func (p *sentPipeline) Consumer() <-chan raft.AppendFuture { return p.consumer }
func (p *sentPipeline) Close() error                       { close(p.closed); return nil }

// ranges lists the first and the last index of each message with entries.
func (p *sentPipeline) ranges() (all [][2]uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, args := range p.sent {
		if n := len(args.Entries); n > 0 {
			all = append(all, [2]uint64{args.Entries[0].Index, args.Entries[n-1].Index})
		}
	}
	return all
}

type answered struct {
	args    *raft.AppendEntriesRequest
	success bool
}

func (a answered) Error() error                        { return nil }
func (a answered) Start() time.Time                    { return time.Time{} }
func (a answered) Request() *raft.AppendEntriesRequest { return a.args }
func (a answered) Response() *raft.AppendEntriesResponse {
	return &raft.AppendEntriesResponse{Success: a.success}
}

func entriesOf(term, first, last uint64) (entries []*raft.Log) {
	for i := first; i <= last; i++ {
		entries = append(entries, &raft.Log{Index: i, Term: term})
	}
	return entries
}

func aboutTerm(term uint64) func(uint64) (raft.AppendEntriesRequest, bool) {
	return func(uint64) (raft.AppendEntriesRequest, bool) {
		return raft.AppendEntriesRequest{PrevLogTerm: term}, true
	}
}

// raftSends is raft's message for entries from first to last; none if last is less.
func raftSends(t *testing.T, p raft.AppendPipeline, term, first, last uint64) {
	t.Helper()
	args := &raft.AppendEntriesRequest{Term: term, PrevLogEntry: first - 1, PrevLogTerm: term, Entries: entriesOf(term, first, last)}
	if _, err := p.AppendEntries(args, &raft.AppendEntriesResponse{}); err != nil {
		t.Fatal(err)
	}
}

func TestEntriesAreSentEarlyAndOnce(t *testing.T) {
	const term = 5
	for _, test := range []struct {
		name string
		do   func(t *testing.T, p *earlyPipeline)
		want [][2]uint64
	}{
		{"raft's message for what was sent is dropped", func(t *testing.T, p *earlyPipeline) {
			p.sendEarly(entriesOf(term, 11, 12))
			p.sendEarly(entriesOf(term, 13, 13))
			raftSends(t, p, term, 11, 13)
			p.sendEarly(entriesOf(term, 14, 14))
			raftSends(t, p, term, 14, 14)
		}, [][2]uint64{{11, 12}, {13, 13}, {14, 14}}},
		{"raft was first", func(t *testing.T, p *earlyPipeline) {
			raftSends(t, p, term, 11, 12)
			p.sendEarly(entriesOf(term, 11, 12))
			p.sendEarly(entriesOf(term, 13, 13))
		}, [][2]uint64{{11, 12}, {13, 13}}},
		{"raft knows more than was sent", func(t *testing.T, p *earlyPipeline) {
			p.sendEarly(entriesOf(term, 11, 11))
			raftSends(t, p, term, 11, 14)
			p.sendEarly(entriesOf(term, 12, 14))
			p.sendEarly(entriesOf(term, 15, 15))
		}, [][2]uint64{{11, 11}, {11, 14}, {15, 15}}},
		{"a hole is raft's to fill", func(t *testing.T, p *earlyPipeline) {
			p.sendEarly(entriesOf(term, 12, 12))
			raftSends(t, p, term, 11, 12)
		}, [][2]uint64{{11, 12}}},
		{"another term's entries are not for this pipeline", func(t *testing.T, p *earlyPipeline) {
			p.sendEarly(entriesOf(term+1, 11, 11))
			p.sendEarly(entriesOf(term-1, 11, 11))
		}, nil},
		{"a message without entries changes nothing", func(t *testing.T, p *earlyPipeline) {
			p.sendEarly(entriesOf(term, 11, 11))
			raftSends(t, p, term, 11, 10)
			p.sendEarly(entriesOf(term, 12, 12))
		}, [][2]uint64{{11, 11}, {12, 12}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var all earlySenders
			real := newSentPipeline()
			p := all.wrap(real, aboutTerm(term))
			defer p.Close()
			p.sendEarly(entriesOf(term, 11, 11)) // before raft said where the follower is
			raftSends(t, p, term, 11, 10)        // up to 10 it has all
			test.do(t, p)
			if got := real.ranges(); !slices.Equal(got, test.want) {
				t.Errorf("sent %v, want %v", got, test.want)
			}
			for _, args := range real.sent {
				if n := len(args.Entries); n > 0 && (args.Term != term || args.PrevLogEntry != args.Entries[0].Index-1 || args.PrevLogTerm != term) {
					t.Errorf("entries %d to %d follow entry %d of term %d in term %d", args.Entries[0].Index, args.Entries[n-1].Index,
						args.PrevLogEntry, args.PrevLogTerm, args.Term)
				}
			}
		})
	}
}

// Raft stops reading answers after the first bad one. Who waits for room among
// the messages under way must not wait for ever.
func TestBadAnswerFreesWhoeverSends(t *testing.T) {
	var all earlySenders
	real := newSentPipeline()
	real.room = make(chan struct{})
	p := all.wrap(real, aboutTerm(5))
	blocked := make(chan error, 1)
	go func() {
		_, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 5, Entries: entriesOf(5, 1, 1)}, &raft.AppendEntriesResponse{})
		blocked <- err
	}()
	real.consumer <- answered{&raft.AppendEntriesRequest{}, false}
	<-p.Consumer()
	if err := <-blocked; !errors.Is(err, raft.ErrPipelineShutdown) {
		t.Errorf("got %v, want %v", err, raft.ErrPipelineShutdown)
	}
	all.offer(entriesOf(5, 2, 2)) // nobody is there
}

// gatedStore holds appends while closed.
type gatedStore struct {
	store
	gate sync.RWMutex
}

func (g *gatedStore) StoreLogs(entries []*raft.Log) error {
	g.gate.RLock()
	defer g.gate.RUnlock()
	return g.store.StoreLogs(entries)
}

// The followers write an entry while the leader does, and the leader promises
// nothing before it has written it itself.
func TestFollowersWriteBesideTheLeader(t *testing.T) {
	disks := map[string]*gatedStore{}
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.LeaderWait, cfg.Heartbeat, cfg.LeaderLease = time.Minute, time.Minute, time.Minute
		cfg.wrapStore = func(s store) store {
			disks[cfg.Name] = &gatedStore{store: s}
			return disks[cfg.Name]
		}
	})
	leader := c.hosts[0]
	if c.leader() != leader {
		t.Fatalf("%s leads, want %s", c.leader().name, leader.name)
	}
	for range 10 { // replication is in its pipelines then
		c.propose(leader, "before")
	}
	lock, done := proposeAhead(t, c, leader, disks)
	select {
	case err := <-done:
		t.Errorf("answered (%v) before the leader's own write was done", err)
	default:
	}
	lock.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Raft must not hear that a follower has an entry before raft has sent it: the
// leader's own log may lack it still.
func TestEarlyAnswerWaitsForRaft(t *testing.T) {
	const term = 5
	var all earlySenders
	real := newSentPipeline()
	p := all.wrap(real, aboutTerm(term))
	defer p.Close()
	raftSends(t, p, term, 11, 10)
	p.sendEarly(entriesOf(term, 11, 12))
	p.sendEarly(entriesOf(term, 13, 13))
	go func() {
		for _, args := range real.sent {
			real.consumer <- answered{args, true}
		}
	}()
	if got := lastEntry(<-p.Consumer()); got != 0 {
		t.Fatalf("the first answer is to a message with entry %d, want raft's own", got)
	}
	select {
	case future := <-p.Consumer():
		t.Fatalf("raft was told of entry %d, which it has not sent", lastEntry(future))
	case <-time.After(20 * time.Millisecond):
	}
	raftSends(t, p, term, 11, 12)
	if got := lastEntry(<-p.Consumer()); got != 12 {
		t.Errorf("raft has sent up to 12 and is told of %d", got)
	}
	raftSends(t, p, term, 13, 13)
	if got := lastEntry(<-p.Consumer()); got != 13 {
		t.Errorf("raft has sent up to 13 and is told of %d", got)
	}
}

// A leader whose disk is slow, and whose connections break meanwhile, must not
// take followers that are ahead of its own log for behind it. It would send a
// snapshot, and they would lose what they have acknowledged since.
func TestFollowersAheadOfTheLeaderKeepWhatTheyHave(t *testing.T) {
	disks := map[string]*gatedStore{}
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.LeaderWait, cfg.Heartbeat, cfg.LeaderLease = time.Minute, time.Minute, time.Minute
		cfg.wrapStore = func(s store) store {
			disks[cfg.Name] = &gatedStore{store: s}
			return disks[cfg.Name]
		}
	})
	leader := c.hosts[0]
	if c.leader() != leader {
		t.Fatalf("%s leads, want %s", c.leader().name, leader.name)
	}
	for i := range 10 {
		c.propose(leader, fmt.Sprint("before ", i))
	}
	if err := leader.takeSnapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		c.propose(leader, fmt.Sprint("after ", i))
	}
	lock, done := proposeAhead(t, c, leader, disks)
	time.Sleep(50 * time.Millisecond) // for the answers, which must not reach raft
	leader.trans.early.hushed.Store(true)
	time.Sleep(200 * time.Millisecond)
	leader.trans.early.hushed.Store(false)
	time.Sleep(500 * time.Millisecond) // time to be wrong in
	lock.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, h := range c.hosts[1:] {
		c.barrier(h)
		if h.sm.restores() > 0 {
			t.Errorf("%s was sent a snapshot", h.name)
		}
		if first, _ := h.disk.FirstIndex(); first > 2 {
			t.Errorf("the log of %s begins at %d", h.name, first)
		}
	}
}

// proposeAhead proposes a command that every follower has in its log while the
// leader's own write waits for the lock that it returns; done is the answer. An
// entry goes out early only over pipelines that are open and have no more under way
// than they may, which on a busy machine is not always so: then it tries again.
func proposeAhead(t *testing.T, c *cluster, leader *host, disks map[string]*gatedStore) (lock sync.Locker, done <-chan error) {
	t.Helper()
	lock = &disks[leader.name].gate
	for range 20 {
		lock.Lock()
		last := leader.raft.LastIndex()
		answer := make(chan error, 1)
		go func() {
			_, err := leader.Propose(context.Background(), []byte("beside"))
			answer <- err
		}()
		for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if !slices.ContainsFunc(c.hosts[1:], func(h *host) bool { return h.raft.LastIndex() <= last }) {
				return lock, answer
			}
		}
		lock.Unlock()
		if err := <-answer; err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the followers never had an entry before the leader")
	return nil, nil
}

// sendSnapshot sends a host's newest snapshot to another host, as raft would.
func sendSnapshot(t *testing.T, from, to *host) (raft.InstallSnapshotResponse, error) {
	t.Helper()
	list, err := from.snapshots.List()
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	meta, content, err := from.snapshots.Open(list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	address := from.trans.EncodePeer(raft.ServerID(from.name), from.trans.LocalAddr())
	req := raft.InstallSnapshotRequest{
		RPCHeader:       raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(from.name), Addr: address},
		SnapshotVersion: raft.SnapshotVersionMax, Term: from.raft.CurrentTerm(), Leader: address,
		LastLogIndex: meta.Index, LastLogTerm: meta.Term, Size: meta.Size,
		Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex,
	}
	var resp raft.InstallSnapshotResponse
	err = from.trans.InstallSnapshot(raft.ServerID(to.name), raft.ServerAddress(to.address), &req, &resp, content)
	return resp, err
}

// A follower keeps what it has when it is sent a snapshot of less.
func TestSnapshotOfWhatIsThereIsNotInstalled(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader := c.leader()
	c.propose(leader, "in the snapshot")
	if err := leader.takeSnapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	taken, _, _ := leader.snapshots.newest()
	c.propose(leader, "after the snapshot")
	follower := c.followers()[0]
	c.barrier(follower)
	before := follower.raft.LastIndex()
	if resp, err := sendSnapshot(t, leader, follower); err != nil || !resp.Success {
		t.Fatalf("answer %+v, %v, want success", resp, err)
	}
	if got := follower.raft.LastIndex(); got < before {
		t.Errorf("the log ends at %d, at %d before", got, before)
	}
	if first, _ := follower.disk.FirstIndex(); first == 0 || first > taken {
		t.Errorf("the log begins at %d, want it as it was", first)
	}
	if follower.sm.restores() > 0 {
		t.Error("the state was replaced by an older one")
	}
	c.propose(follower, "afterwards")
}

// What a follower is still writing when the snapshot comes counts as well.
func TestSnapshotOfWhatIsBeingWrittenIsNotInstalled(t *testing.T) {
	disks := map[string]*gatedStore{}
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.LeaderWait, cfg.Heartbeat, cfg.LeaderLease = time.Minute, time.Minute, time.Minute
		cfg.wrapStore = func(s store) store {
			disks[cfg.Name] = &gatedStore{store: s}
			return disks[cfg.Name]
		}
	})
	leader, follower := c.leader(), c.followers()[0]
	for range 10 {
		c.propose(leader, "before")
	}
	c.barrier(follower)
	lock := &disks[follower.name].gate
	lock.Lock()
	c.propose(leader, "written late")
	if err := leader.takeSnapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := sendSnapshot(t, leader, follower)
		sent <- err
	}()
	time.Sleep(100 * time.Millisecond) // it has arrived
	lock.Unlock()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	c.propose(follower, "afterwards")
	if follower.sm.restores() > 0 {
		t.Error("a snapshot of what was being written was installed")
	}
}

// A disk that hangs ends the term on this node. When it does not hang any more,
// and nobody took over in between, raft still leads and the others follow: a node
// that has stopped serving by then would block the cluster for good. Found by
// chaos: a node won an election while its disk hung.
func TestLeadsOnAfterTheDiskHung(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.LeaderWait = time.Second })
	leader := c.leader()
	c.propose(leader, "before")
	for _, pause := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond} {
		leader.hush(true)
		time.Sleep(pause)
		leader.hush(false)
		c.eventually("a write succeeds", func() bool {
			ctx, cancel := c.ctx()
			defer cancel()
			// What was under way when the term ended may be of unknown outcome: raft's
			// term goes on, so nothing tells.
			_, err := leader.Propose(ctx, []byte("after"))
			if err != nil && !errors.Is(err, ErrOutcomeUnknown) && !errors.Is(err, ErrNoLeader) {
				t.Fatal(err)
			}
			return err == nil
		})
	}
}
