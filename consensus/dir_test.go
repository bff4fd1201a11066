package consensus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// refused opens a node that must not open, and returns why.
func (h *host) refused() error {
	h.t.Helper()
	err := h.open()
	if err == nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = h.Node.Run(ended)
		h.t.Fatal("opened, want a refusal")
	}
	if strings.Contains(err.Error(), "\n") {
		h.t.Errorf("more than one line: %q", err)
	}
	if !strings.Contains(err.Error(), h.dir) {
		h.t.Errorf("does not name the directory: %q", err)
	}
	return err
}

// used returns a stopped host of a one-node cluster with some commands in its log.
func used(t *testing.T, tune func(*Config)) *host {
	t.Helper()
	c := newCluster(t, 1, tune)
	for i := range 50 {
		c.propose(c.hosts[0], fmt.Sprint(i))
	}
	c.hosts[0].stop()
	return c.hosts[0]
}

func TestDirectoryOfAnotherIsRefused(t *testing.T) {
	for _, test := range []struct {
		name string
		tune func(*Config)
		want string
		is   error
	}{
		{"another cluster", func(c *Config) { c.ClusterID = "cluster-2" }, "choose another data directory", ErrForeign},
		{"another name", func(c *Config) { c.Name = "c9" }, `belongs to node "c1"`, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := used(t, nil)
			h.tune = test.tune
			err := h.refused()
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q, want %q in it", err, test.want)
			}
			if test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("%q is not %q", err, test.is)
			}
			h.tune = nil
			h.start() // and nothing was harmed
			(&cluster{TB: t, hosts: []*host{h}}).barrier(h)
			if got := len(h.sm.all()); got != 50 {
				t.Errorf("%d commands, want 50", got)
			}
		})
	}
}

func TestSecondProcessIsRefused(t *testing.T) {
	c := newCluster(t, 1, nil)
	second := newHost(t, c.network, "c1", nil)
	second.dir = c.hosts[0].dir
	if err, want := second.refused(), fmt.Sprintf("in use by process %d", os.Getpid()); !strings.Contains(err.Error(), want) {
		t.Errorf("got %q, want %q in it", err, want)
	}
	c.propose(c.hosts[0], "the first goes on")
}

func TestDamagedDirectoryIsRefused(t *testing.T) {
	write := func(name string, data string) func(string) error {
		return func(dir string) error { return os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600) }
	}
	cut := func(name string, keep func(size int64) int64) func(string) error {
		return func(dir string) error {
			path := filepath.Join(dir, name)
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return os.Truncate(path, keep(info.Size()))
		}
	}
	for _, test := range []struct {
		name   string
		damage func(raftDir string) error
	}{
		{"log emptied", cut(firstSegment, func(int64) int64 { return 0 })},
		{"log cut short", cut(firstSegment, func(int64) int64 { return 100 })},
		{"log cut to its first pages", cut(firstSegment, func(int64) int64 { return 8192 })},
		{"log cut in the middle", cut(firstSegment, func(size int64) int64 { return size / 2 / 4096 * 4096 })},
		{"log grown", cut(firstSegment, func(size int64) int64 { return size + 4096 })},
		{"log gone", func(dir string) error { return os.Remove(filepath.Join(dir, firstSegment)) }},
		{"not a log", write(firstSegment, strings.Repeat("not a segment ", 500000))},
		{"promises gone", func(dir string) error { return os.Remove(filepath.Join(dir, "promises")) }},
		{"promises emptied", cut("promises", func(int64) int64 { return 0 })},
		{"promises cut", cut("promises", func(size int64) int64 { return size / 2 })},
		{"not promises", write("promises", strings.Repeat("promises", 1024))},
		{"node file emptied", write("node.json", "")},
		{"node file garbled", write("node.json", "{]")},
		{"node file gone", func(dir string) error { return os.Remove(filepath.Join(dir, "node.json")) }},
		{"log of zeroes", func(dir string) error {
			path := filepath.Join(dir, firstSegment)
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, make([]byte, info.Size()), 0o600)
		}},
		{"log of zeroes after its beginning", func(dir string) error {
			path := filepath.Join(dir, firstSegment)
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			clear(b[8192:])
			return os.WriteFile(path, b, 0o600)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := used(t, nil)
			if err := test.damage(filepath.Join(h.dir, "raft")); err != nil {
				t.Fatal(err)
			}
			if err := h.refused(); !strings.Contains(err.Error(), "is damaged") || !strings.Contains(err.Error(), "join this node anew") {
				t.Errorf("does not say what to do: %q", err)
			}
		})
	}
}

const firstSegment = "log-0000000000000001"

// A command that changed on the disk must not be applied.
func TestFlippedByteInTheLogIsRefused(t *testing.T) {
	h := used(t, nil)
	path := filepath.Join(h.dir, "raft", firstSegment)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	envelope := envelope{term: 2, commands: []command{{origin: h.origin, sequence: 31, data: []byte("30")}}}.encode()
	at := strings.LastIndex(string(b), string(envelope))
	if at < 0 {
		t.Fatal("the command is not in the log file")
	}
	b[at+len(envelope)-1] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.refused(); !strings.Contains(err.Error(), "is damaged (sector") {
		t.Errorf("got %q, want a word on the sector", err)
	}
}

func TestUnusableDiskIsRefused(t *testing.T) {
	t.Run("a file in the way", func(t *testing.T) {
		h := newHost(t, newNetwork(), "c1", nil)
		if err := os.WriteFile(filepath.Join(h.dir, "raft"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := h.refused(); !strings.Contains(err.Error(), "choose another data directory") {
			t.Errorf("does not say what to do: %q", err)
		}
	})
	t.Run("full", func(t *testing.T) {
		err := diskError("/d", fmt.Errorf("write: %w", syscall.ENOSPC))
		if !strings.Contains(err.Error(), "free some space") {
			t.Errorf("does not say what to do: %q", err)
		}
	})
}

func TestUnknownCommandStopsTheNode(t *testing.T) {
	c := newCluster(t, 1, nil)
	h := c.hosts[0]
	c.propose(h, "known")
	if _, err := h.Propose(context.Background(), []byte("!unknown")); !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("propose: %v, want %v", err, ErrOutcomeUnknown)
	}
	<-h.done
	if h.err == nil || !strings.Contains(h.err.Error(), "unknown command") {
		t.Errorf("Run: %v, want the reason", h.err)
	}
	if _, err := h.Propose(context.Background(), []byte("later")); !errors.Is(err, ErrStopped) {
		t.Errorf("propose afterwards: %v, want %v", err, ErrStopped)
	}
	if h.sm.has("later") {
		t.Error("a later command was applied")
	}
}

// failingStore fails or hangs once told to.
type failingStore struct {
	store
	err  chan error    // when it can be received from, writes fail
	hang chan struct{} // when not nil, writes wait for it
}

func (f *failingStore) StoreLogs(entries []*raft.Log) error {
	select {
	case err := <-f.err:
		return err
	default:
	}
	if f.hang != nil {
		for _, e := range entries {
			if strings.Contains(string(e.Data), "hang") {
				<-f.hang
			}
		}
	}
	return f.store.StoreLogs(entries)
}

// A write to the log that fails is never tried again and never acknowledged.
func TestFailedDiskWriteStopsTheNode(t *testing.T) {
	disk := &failingStore{err: make(chan error, 1)}
	c := newCluster(t, 1, func(cfg *Config) {
		cfg.LeaderWait = 200 * time.Millisecond
		cfg.wrapStore = func(s store) store { disk.store = s; return disk }
	})
	h := c.hosts[0]
	c.propose(h, "good")
	disk.err <- syscall.EIO
	if _, err := h.Propose(context.Background(), []byte("bad")); !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("propose: %v, want %v", err, ErrOutcomeUnknown)
	}
	<-h.done
	if h.err == nil || !errors.Is(h.err, syscall.EIO) || !strings.Contains(h.err.Error(), h.dir) {
		t.Errorf("Run: %v, want the disk's error and the path", h.err)
	}
	if h.sm.has("bad") {
		t.Error("the command was applied")
	}
}

// A leader whose disk hangs must not go on as one.
func TestHungDiskStopsTheNode(t *testing.T) {
	disks := map[string]*failingStore{}
	hang := make(chan struct{})
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.DiskDeadline, cfg.LeaderWait = 500*time.Millisecond, time.Minute
		cfg.wrapStore = func(s store) store {
			disks[cfg.Name] = &failingStore{store: s}
			if cfg.Name == "c1" {
				disks[cfg.Name].hang = hang
			}
			return disks[cfg.Name]
		}
	})
	h, others := c.hosts[0], c.hosts[1:]
	if c.leader() != h {
		t.Fatalf("%s leads, want %s", c.leader().name, h.name)
	}
	c.propose(h, "good")
	go func() {
		_, _ = h.Propose(context.Background(), []byte("hang"))
	}()
	<-h.done
	if h.err == nil || !strings.Contains(h.err.Error(), "hangs") {
		t.Errorf("Run: %v, want a word on the disk", h.err)
	}
	c.propose(others[0], "the others go on")
	close(hang)
}
