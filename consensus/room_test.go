package consensus

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/musterhq/muster/consensus/wal"
)

// smallDisk is full when it is told so: it allocates nothing then.
type smallDisk struct {
	wal.Disk
	full atomic.Bool
	// readError and hang are for reads and writes of the log.
	readError atomic.Bool
	hang      atomic.Pointer[chan struct{}]
}

func (d *smallDisk) Free(dir string) (uint64, error) {
	if d.full.Load() {
		return 0, nil
	}
	return 1 << 40, nil
}

func (d *smallDisk) OpenFile(name string, flag int, perm fs.FileMode) (wal.File, error) {
	f, err := d.Disk.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return smallFile{f, d}, nil
}

type smallFile struct {
	wal.File
	disk *smallDisk
}

func (f smallFile) Allocate(size int64) error {
	if f.disk.full.Load() {
		return syscall.ENOSPC
	}
	return f.File.Allocate(size)
}

func (f smallFile) ReadAt(b []byte, at int64) (int, error) {
	if f.disk.readError.Load() {
		return 0, &fs.PathError{Op: "read", Path: "log", Err: syscall.EIO}
	}
	return f.File.ReadAt(b, at)
}

func (f smallFile) Datasync() error {
	if hang := f.disk.hang.Load(); hang != nil {
		<-*hang
	}
	return f.File.Datasync()
}

// smallDisks gives each node of a cluster a disk of its own.
func smallDisks(t *testing.T, n int) (*cluster, map[string]*smallDisk) {
	var mu sync.Mutex
	disks := map[string]*smallDisk{}
	c := newCluster(t, n, func(cfg *Config) {
		mu.Lock()
		defer mu.Unlock()
		disks[cfg.Name] = &smallDisk{Disk: wal.OS}
		cfg.Disk = disks[cfg.Name]
	})
	return c, disks
}

func TestWhenADiskIsFull(t *testing.T) {
	for _, test := range []struct {
		name              string
		was               bool
		free              uint64
		starved, reserved bool
		want              bool
	}{
		{"room", false, 1 << 30, false, true, false},
		{"the reserve is being made", false, 1 << 30, false, false, false},
		{"no reserve to be had", false, 1 << 30, true, false, true},
		{"nearly full", false, roomLow - 1, false, true, true},
		{"little, but enough to go on", false, roomLow, false, true, false},
		{"little, not enough to begin again", true, roomEnough - 1, false, true, true},
		{"room, but no reserve yet", true, roomEnough, false, false, true},
		{"room again", true, roomEnough, false, true, false},
	} {
		if got := isFull(test.was, test.free, test.starved, test.reserved); got != test.want {
			t.Errorf("%s: full %t, want %t", test.name, got, test.want)
		}
	}
}

// awaitFull waits until nodes say that their disks are full, or not.
func (c *cluster) awaitFull(want bool, hosts ...*host) {
	c.Helper()
	for _, h := range hosts {
		c.eventually(h.name+" notices its disk", func() bool { return h.Status().DiskFull == want })
	}
}

// Full disks of a quorum: writes are refused everywhere with an error that says
// so, reads go on, nobody ends, and writes come back by themselves.
func TestFullDisksRefuseWritesAndRecover(t *testing.T) {
	c, disks := smallDisks(t, 3)
	c.propose(c.hosts[0], "before")
	for _, d := range disks {
		d.full.Store(true)
	}
	c.awaitFull(true, c.hosts...)
	for _, h := range c.hosts {
		c.eventually("writes are refused on "+h.name, func() bool {
			ctx, cancel := c.ctx()
			defer cancel()
			_, err := h.Propose(ctx, []byte("refused"))
			return errors.Is(err, ErrNoSpace)
		})
	}
	before := c.leader().sm.count("refused")
	for _, h := range c.hosts {
		ctx, cancel := c.ctx()
		if _, err := h.Propose(ctx, []byte("refused")); !errors.Is(err, ErrNoSpace) {
			t.Errorf("propose on %s: %v, want %v", h.name, err, ErrNoSpace)
		}
		cancel()
		c.barrier(h)
		if got := h.sm.count("refused"); got != before {
			t.Errorf("%s applied %d refused commands more", h.name, got-before)
		}
	}
	for _, d := range disks {
		d.full.Store(false)
	}
	c.awaitFull(false, c.hosts...)
	for _, h := range c.hosts {
		c.eventually("writes work on "+h.name, func() bool {
			ctx, cancel := c.ctx()
			defer cancel()
			_, err := h.Propose(ctx, []byte("after"))
			return err == nil
		})
	}
}

// One full disk of three costs nothing but the leadership of its node.
func TestFullLeaderHandsLeadershipOn(t *testing.T) {
	c, disks := smallDisks(t, 3)
	leader := c.leader()
	c.propose(leader, "before")
	disks[leader.name].full.Store(true)
	c.eventually("another leads", func() bool { return c.leader() != leader })
	for i, h := range c.hosts {
		c.propose(h, strings.Repeat("x", i+1))
	}
	c.eventually("the full node has all", func() bool { return leader.sm.has("xxx") })
	if got := c.leader(); got == leader {
		t.Errorf("%s leads again with a full disk", got.name)
	}
}

// A full disk keeps nobody from starting: what was acknowledged can be read.
func TestNodeStartsOnAFullDisk(t *testing.T) {
	c, disks := smallDisks(t, 1)
	h := c.hosts[0]
	c.propose(h, "before")
	h.stop()
	tune := h.tune
	h.tune = func(cfg *Config) {
		tune(cfg)
		disks[cfg.Name].full.Store(true)
	}
	h.start()
	c.eventually("it serves reads", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return h.ReadBarrier(ctx) == nil && h.sm.has("before")
	})
	c.awaitFull(true, h)
	ctx, cancel := c.ctx()
	defer cancel()
	if _, err := h.Propose(ctx, []byte("refused")); !errors.Is(err, ErrNoSpace) {
		t.Errorf("propose: %v, want %v", err, ErrNoSpace)
	}
	disks[h.name].full.Store(false)
	c.awaitFull(false, h)
	c.eventually("writes work", func() bool {
		ctx, cancel := c.ctx()
		defer cancel()
		_, err := h.Propose(ctx, []byte("after"))
		return err == nil
	})
}

// A leader whose disk hangs gives way long before its node ends, and is a
// follower like any when the disk goes on.
func TestHungLeaderGivesWay(t *testing.T) {
	c, disks := smallDisks(t, 3)
	leader := c.leader()
	c.propose(leader, "before")
	hang := make(chan struct{})
	disks[leader.name].hang.Store(&hang)
	others := slices.DeleteFunc(slices.Clone(c.hosts), func(h *host) bool { return h == leader })
	var wg sync.WaitGroup
	wg.Go(func() {
		ctx, cancel := c.ctx()
		defer cancel()
		_, _ = leader.Propose(ctx, []byte("hangs"))
	})
	c.eventually("another leads", func() bool {
		for _, h := range others {
			if l, _ := h.term.get(); l != nil {
				return true
			}
		}
		return false
	})
	if l, _ := leader.term.get(); l != nil {
		t.Errorf("%s leads as well", leader.name)
	}
	c.propose(others[0], "the others go on")
	disks[leader.name].hang.Store(nil)
	close(hang)
	wg.Wait()
	c.eventually("the node follows", func() bool { return leader.sm.has("the others go on") })
	select {
	case <-leader.done:
		t.Errorf("the node ended: %v", leader.err)
	default:
	}
}

// A log that cannot be read ends the node with the disk's word, and no panic.
func TestUnreadableLogEndsTheNode(t *testing.T) {
	c, disks := smallDisks(t, 1)
	h := c.hosts[0]
	c.propose(h, "before")
	disks[h.name].readError.Store(true)
	h.disk.mu.Lock()
	h.disk.recent.clear()
	h.disk.mu.Unlock()
	go func() {
		_ = h.disk.GetLog(1, new(raft.Log))
	}()
	<-h.done
	if h.err == nil || !errors.Is(h.err, syscall.EIO) || !strings.Contains(h.err.Error(), "replace it") || !strings.Contains(h.err.Error(), h.dir) {
		t.Errorf("Run: %v, want the disk's error, the path and what to do", h.err)
	}
}
