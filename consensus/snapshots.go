package consensus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Bytes decide when a snapshot is due, not entries: an entry holds from 50 B
// to 1 MiB. Let S be the size of the last snapshot. The log may grow by
// max(SnapshotBytes, S) after a snapshot, so that a snapshot is written for no
// less log than it is long; of what the snapshot covers, half of that is kept
// for followers that are behind. Two snapshots are kept, and one is being
// written now and then. DESIGN.md adds this up.

const (
	snapshotsKept = 2
	// raft's own trigger is never due.
	raftSnapshotInterval  = 24 * time.Hour
	raftSnapshotThreshold = math.MaxUint64
	// trailingAtFirst is kept by what raft trims before this node has taken a
	// snapshot itself, that is by a follower that was sent one.
	trailingAtFirst = 1024
	temporarySuffix = ".tmp" // of a snapshot that is not whole yet, as raft names it
)

// snapshotStore is raft's file store, and what is known of its newest snapshot.
type snapshotStore struct {
	raft.SnapshotStore
	path  string
	under *underWay // nil: nobody watches how long a write takes

	mu    sync.Mutex
	index uint64
	size  int64
	taken time.Time
}

// openSnapshots also removes what a process left that ended while it wrote
// one. It is called with the directory's lock held.
func openSnapshots(dir string, logger *raftLogger) (*snapshotStore, error) {
	s := &snapshotStore{path: filepath.Join(dir, "snapshots")}
	entries, err := os.ReadDir(s.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, diskError(s.path, err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), temporarySuffix) {
			if err := os.RemoveAll(filepath.Join(s.path, e.Name())); err != nil {
				return nil, diskError(s.path, err)
			}
		}
	}
	if s.SnapshotStore, err = raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, logger); err != nil {
		return nil, diskError(s.path, err)
	}
	list, err := s.List()
	if err != nil {
		return nil, diskError(s.path, err)
	}
	if len(list) > 0 {
		s.index, s.size = list[0].Index, list[0].Size
		if info, err := os.Stat(filepath.Join(s.path, list[0].ID)); err == nil {
			s.taken = info.ModTime()
		}
	}
	return s, nil
}

// newest is the newest snapshot's last entry and its size; zeroes if there is none.
func (s *snapshotStore) newest() (index uint64, size int64, taken time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index, s.size, s.taken
}

func (s *snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, configuration, configurationIndex, trans)
	if err != nil {
		return nil, err
	}
	return &snapshotSink{SnapshotSink: sink, store: s, index: index}, nil
}

// watched notes a write that begins; the function it returns notes its end.
func (s *snapshotStore) watched() (end func()) {
	if s.under == nil {
		return func() {}
	}
	return s.under.begin()
}

type snapshotSink struct {
	raft.SnapshotSink
	store   *snapshotStore
	index   uint64
	written int64
	over    bool
}

func (s *snapshotSink) Write(b []byte) (int, error) {
	defer s.store.watched()()
	n, err := s.SnapshotSink.Write(b)
	s.written += int64(n)
	return n, err
}

func (s *snapshotSink) Close() error {
	defer s.store.watched()()
	err := s.SnapshotSink.Close()
	if s.over {
		return err
	}
	s.over = true
	if err != nil {
		return errors.Join(err, s.remove())
	}
	if err := writeMetaCheck(filepath.Join(s.store.path, s.ID())); err != nil {
		return err
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	s.store.index, s.store.size, s.store.taken = s.index, s.written, time.Now()
	return nil
}

// Cancel leaves nothing behind. Raft's own does when the disk is full, because
// it cannot write the rest of what it is about to remove.
func (s *snapshotSink) Cancel() error {
	err := s.SnapshotSink.Cancel()
	if s.over {
		return err
	}
	s.over = true
	if s.remove() == nil {
		return nil
	}
	return err
}

func (s *snapshotSink) remove() error {
	return os.RemoveAll(filepath.Join(s.store.path, s.ID()+temporarySuffix))
}

// snapshotPause is between looks at the log while it grows, and before a
// second try; a failure makes it longer.
const (
	snapshotPause    = 100 * time.Millisecond
	snapshotPauseMax = 30 * time.Second
)

// takeSnapshots has raft take one whenever one is due.
func (n *Node) takeSnapshots(ctx context.Context) error {
	pause := snapshotPause
	for {
		select {
		case <-n.grown.grew:
		case <-ctx.Done():
			return nil
		}
		for n.snapshotDue() {
			if err := n.takeSnapshot(ctx); err == nil {
				pause = snapshotPause
				continue
			} else if ctx.Err() != nil {
				return nil
			} else {
				// A change of the configuration that is on its way is the
				// usual reason; a full disk a bad one.
				pause = min(2*pause, snapshotPauseMax)
				n.log.Warn("no snapshot taken, the log keeps growing", "error", err, "again in", pause)
			}
			if !sleep(ctx, pause) {
				return nil
			}
		}
		if !sleep(ctx, snapshotPause) {
			return nil
		}
	}
}

// sleep says whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// snapshotBytes is what the log may grow by after a snapshot.
func (n *Node) snapshotBytes() int64 {
	_, size, _ := n.snapshots.newest()
	return max(n.cfg.SnapshotBytes, size)
}

func (n *Node) snapshotDue() bool {
	index, _, _ := n.snapshots.newest()
	weight, entries := n.grown.growth.since(index)
	return weight > n.snapshotBytes() || n.cfg.SnapshotEntries > 0 && entries > n.cfg.SnapshotEntries
}

func (n *Node) takeSnapshot(ctx context.Context) error {
	trailing := n.grown.growth.newest(n.snapshotBytes() / 2)
	if n.cfg.TrailingEntries > 0 {
		trailing = min(trailing, n.cfg.TrailingEntries)
	}
	n.setTrailing(trailing)
	done := make(chan error, 1)
	begin := time.Now()
	if !n.background.start(func() { done <- n.raft.Snapshot().Error() }) {
		return ErrStopped
	}
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	index, size, _ := n.snapshots.newest()
	n.log.Debug("snapshot taken", "index", index, "bytes", size, "trailing", trailing, "took", time.Since(begin).Round(time.Millisecond))
	return nil
}

// setTrailing says how many entries raft leaves in the log when it trims it.
func (n *Node) setTrailing(entries uint64) {
	n.timers.Lock()
	defer n.timers.Unlock()
	c := n.raft.ReloadableConfig()
	if c.TrailingLogs == entries {
		return
	}
	c.TrailingLogs = entries
	if err := n.raft.ReloadConfig(c); err != nil {
		n.log.Warn("what the log keeps cannot be changed", "error", err)
	}
}
