package consensus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

func (h *host) recover(do bool) (*Recovery, *register, error) {
	sm := &register{}
	r, err := Recover(Offline{Dir: h.dir, StateMachine: sm}, do)
	return r, sm, err
}

// Two of three nodes are lost for good. The last one must become a cluster with
// every command that it acknowledged, and take in new nodes; with a log only,
// with a snapshot and a log, and after a restart.
func TestLastNodeBecomesACluster(t *testing.T) {
	for name, tune := range map[string]func(*Config){
		"log":              nil,
		"snapshot and log": func(c *Config) { c.SnapshotEntries, c.TrailingEntries = 30, 5 },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 3, tune)
			survivor := c.followers()[0]
			for i := range 100 {
				c.propose(survivor, fmt.Sprint(i)) // acknowledged here, so applied here
			}
			for _, h := range c.hosts {
				if h != survivor {
					h.kill()
				}
			}
			if _, _, err := survivor.recover(true); err == nil || !strings.Contains(err.Error(), "in use by process") {
				t.Errorf("of a running node: %v", err)
			}
			survivor.kill()

			// Only looking changes nothing, however often.
			for range 2 {
				r, sm, err := survivor.recover(false)
				if err != nil {
					t.Fatal(err)
				}
				if r.Name != survivor.name || r.Cluster != "cluster-1" || r.Address != survivor.address || !r.Voter ||
					len(r.Dropped) != 2 || r.LastIndex == 0 || r.Term < r.LastTerm || r.LastTerm == 0 || r.LastWritten.IsZero() {
					t.Errorf("got %+v", r)
				}
				if len(sm.all()) != 100 {
					t.Errorf("%d commands, want 100", len(sm.all()))
				}
			}
			before, _, _ := survivor.recover(false)
			after, _, err := survivor.recover(true)
			if err != nil || after.LastIndex != before.LastIndex {
				t.Fatalf("%+v, %v", after, err)
			}
			if _, _, err := survivor.recover(true); !errors.Is(err, ErrNothingToRecover) {
				t.Errorf("a second time: %v, want %v", err, ErrNothingToRecover)
			}
			survivor.start()
			c.hosts = []*host{survivor}
			c.barrier(survivor)
			if got := len(survivor.sm.all()); got != 100 {
				t.Errorf("%d commands, want 100", got)
			}
			c.propose(survivor, "alone")
			for _, name := range []string{"d2", "d3"} {
				h := newHost(t, c.network, name, tune)
				c.hosts = append(c.hosts, h)
				h.start()
				ctx, cancel := c.ctx()
				if err := h.Join(ctx, []string{survivor.address}); err != nil {
					t.Fatalf("%s joins: %v", name, err)
				}
				cancel()
				c.propose(h, "on "+name)
			}
			c.sameLog(c.hosts...)
			survivor.kill()
			survivor.start()
			c.barrier(survivor)
			if got := len(survivor.sm.all()); got != 103 {
				t.Errorf("%d commands after a restart, want 103", got)
			}
		})
	}
}

// The process ends after the snapshot with the new configuration was written
// and before the log that names the old members is gone.
func TestRecoverCanEndHalfway(t *testing.T) {
	c := newCluster(t, 3, nil)
	survivor := c.followers()[0]
	for i := range 20 {
		c.propose(survivor, fmt.Sprint(i))
	}
	for _, h := range c.hosts {
		h.kill()
	}
	d, err := openDir((&Offline{Dir: survivor.dir}).config("cluster-1", survivor.name))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Offline{StateMachine: &register{}}.open(d)
	if err != nil {
		t.Fatal(err)
	}
	r := &Recovery{}
	members, err := f.replay(r)
	if err != nil {
		t.Fatal(err)
	}
	f.log = undeletable{f.log}
	for _, m := range members.Servers {
		if string(m.ID) == survivor.name {
			err = f.cover(r.LastIndex, r.LastTerm, m)
		}
	}
	if !errors.Is(err, errUndeletable) {
		t.Fatalf("got %v, want %v", err, errUndeletable)
	}
	d.close()
	c.hosts = []*host{survivor}
	survivor.start()
	c.propose(survivor, "alone")
	if got := len(survivor.sm.all()); got != 21 {
		t.Errorf("%d commands, want 21", got)
	}
}

func TestDamagedDirectoryIsNotRecovered(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"no directory": func(dir string) error { return os.RemoveAll(dir) },
		"node.json":    func(dir string) error { return os.WriteFile(filepath.Join(dir, "node.json"), []byte("{]"), 0o600) },
		"snapshot": func(dir string) error {
			states, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
			for _, path := range states {
				b, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				b[len(b)/2] ^= 1
				if err := os.WriteFile(path, b, 0o600); err != nil {
					return err
				}
			}
			if len(states) == 0 {
				return errors.New("no snapshots")
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 2, func(c *Config) { c.SnapshotEntries, c.TrailingEntries = 30, 5 })
			h := c.hosts[1]
			for i := range 100 {
				c.propose(h, fmt.Sprint(i))
			}
			c.eventually("a trimmed log", func() bool {
				first, err := h.disk.FirstIndex()
				return err == nil && first > 30
			})
			c.hosts[0].kill()
			h.kill()
			if err := damage(filepath.Join(h.dir, "raft")); err != nil {
				t.Fatal(err)
			}
			if _, _, err := h.recover(true); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), h.dir) {
				t.Errorf("got %v, want one line that names the directory", err)
			}
		})
	}
}

func TestSeededDirectoryIsACluster(t *testing.T) {
	w := newNetwork()
	h := newHost(t, w, "c1", func(c *Config) { c.Bootstrap = true })
	h.address = "127.0.0.1:0"
	if err := Seed(Offline{Dir: h.dir, StateMachine: &register{commands: []string{"a", "b"}}}, "cluster-1", "c1", "127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	h.address = ""
	c := &cluster{TB: t, network: w, hosts: []*host{h}}
	h.start()
	c.propose(h, "c")
	if got := fmt.Sprint(h.sm.all()); got != "[a b c]" {
		t.Errorf("got %s, want [a b c]", got)
	}
	h.kill()
	if err := Seed(Offline{Dir: h.dir, StateMachine: &register{}}, "cluster-1", "c1", "127.0.0.1:1"); err == nil || !strings.Contains(err.Error(), "used already") {
		t.Errorf("a used directory: %v", err)
	}
	h.start()
	c.barrier(h)
	if got := fmt.Sprint(h.sm.all()); got != "[a b c]" {
		t.Errorf("after a restart: got %s, want [a b c]", got)
	}
	second := newHost(t, w, "c2", nil)
	second.start()
	ctx, cancel := c.ctx()
	defer cancel()
	if err := second.Join(ctx, []string{h.address}); err != nil {
		t.Fatal(err)
	}
	c.propose(second, "d")
	if got := fmt.Sprint(second.sm.all()); got != "[a b c d]" {
		t.Errorf("the second node has %s, want [a b c d]", got)
	}
}

var errUndeletable = errors.New("the process ended here")

type undeletable struct{ raft.LogStore }

func (undeletable) DeleteRange(uint64, uint64) error { return errUndeletable }
