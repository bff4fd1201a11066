package consensus

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// add puts another host beside the cluster's; it does not join yet.
func (c *cluster) add(name string, tune func(*Config)) *host {
	h := newHost(c, c.network, name, tune)
	h.start()
	return h
}

func (c *cluster) join(h *host, seed *host) error {
	ctx, cancel := c.ctx()
	defer cancel()
	return h.Join(ctx, []string{seed.address})
}

func TestJoinThroughAFollower(t *testing.T) {
	c := newCluster(t, 3, nil)
	for _, seed := range c.followers() {
		h := c.add("new-"+seed.name, nil)
		if err := c.join(h, seed); err != nil {
			t.Fatal(err)
		}
		s := h.Status()
		if !h.isVoterHere() {
			t.Errorf("%s joined and is no voter: %+v", h.name, s)
		}
		c.propose(h, "from "+h.name)
	}
	if got := len(c.leader().Status().Servers); got != 5 {
		t.Errorf("%d servers, want 5", got)
	}
}

func TestForeignNodeIsRefused(t *testing.T) {
	c := newCluster(t, 1, nil)
	h := c.add("x", func(cfg *Config) { cfg.ClusterID = "cluster-2" })
	if err := c.join(h, c.hosts[0]); !errors.Is(err, ErrForeign) {
		t.Errorf("got %v, want %v", err, ErrForeign)
	}
	if got := len(c.hosts[0].Status().Servers); got != 1 {
		t.Errorf("%d servers, want 1", got)
	}
}

func TestTakenNameIsRefused(t *testing.T) {
	c := newCluster(t, 3, nil)
	for _, taken := range c.hosts { // the leader's own as well
		h := c.add(taken.name, nil)
		if err := c.join(h, c.hosts[0]); !errors.Is(err, ErrNameTaken) {
			t.Errorf("%s: got %v, want %v", taken.name, err, ErrNameTaken)
		}
		h.stop()
	}
	for _, h := range c.hosts {
		c.propose(h, "still here: "+h.name)
	}
}

func TestChangedAddressIsFollowed(t *testing.T) {
	c := newCluster(t, 3, nil)
	for _, h := range []*host{c.followers()[0], c.leader()} {
		c.propose(h, "before "+h.name)
		old := h.address
		h.stop()
		h.address = "" // another port
		h.start()
		c.eventually("the new address", func() bool {
			s := c.leader().Status()
			for _, it := range s.Servers {
				if it.Name == h.name {
					return it.Address == h.address && it.Voter
				}
			}
			return false
		})
		if h.address == old {
			t.Fatal("the test kept the address")
		}
		c.propose(h, "after "+h.name)
	}
	if got := len(c.leader().Status().Servers); got != 3 {
		t.Errorf("%d servers, want 3", got)
	}
}

func TestSingleNodeChangesItsAddress(t *testing.T) {
	c := newCluster(t, 1, nil)
	h := c.hosts[0]
	c.propose(h, "before")
	h.stop()
	h.address = ""
	h.start()
	c.propose(h, "after")
	c.eventually("the new address", func() bool { return h.Status().Servers[0].Address == h.address })
}

// A member that lost its disk has forgotten what it acknowledged. Until the
// leader knows it must take no part; then it starts over.
func TestWipedMemberStartsOver(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.LeaderWait = time.Minute })
	c.propose(c.hosts[0], "before")
	wiped := c.followers()[0]
	wiped.kill()
	if err := os.RemoveAll(filepath.Join(wiped.dir, "raft")); err != nil {
		t.Fatal(err)
	}
	wiped.tune = nil
	wiped.start()
	time.Sleep(200 * time.Millisecond) // the leader tries to reach it
	if last := wiped.raft.LastIndex(); last != 0 {
		t.Errorf("took part with %d entries before the leader knew", last)
	}
	before := c.leader().raft.LastIndex()
	if err := c.join(wiped, c.leader()); err != nil {
		t.Fatal(err)
	}
	c.propose(wiped, "after")
	nonVoter := false
	for index := before + 1; index <= c.leader().raft.LastIndex(); index++ {
		var entry raft.Log
		if err := c.leader().disk.GetLog(index, &entry); err != nil {
			t.Fatal(err)
		}
		if entry.Type != raft.LogConfiguration {
			continue
		}
		for _, s := range raft.DecodeConfiguration(entry.Data).Servers {
			nonVoter = nonVoter || string(s.ID) == wiped.name && s.Suffrage == raft.Nonvoter
		}
	}
	if !nonVoter {
		t.Error("it went on as a voter")
	}
	c.sameLog(c.hosts...)
	if got := len(c.leader().Status().Servers); got != 3 {
		t.Errorf("%d servers, want 3", got)
	}
}

func TestRemovedServer(t *testing.T) {
	c := newCluster(t, 3, nil)
	gone := c.followers()[0]
	ctx, cancel := c.ctx()
	defer cancel()
	if err := c.leader().RemoveServer(ctx, gone.name); err != nil {
		t.Fatal(err)
	}
	if err := c.leader().RemoveServer(ctx, "never heard of"); err != nil {
		t.Errorf("removing nobody: %v", err)
	}
	c.propose(c.leader(), "without it")
	term := c.leader().Status().Term
	time.Sleep(time.Second) // it hears nobody now; it must not trouble the others
	if got := c.leader().Status().Term; got != term {
		t.Errorf("term %d, want %d: the removed server caused an election", got, term)
	}
	if err := c.followers()[0].RemoveServer(ctx, gone.name); !errors.Is(err, ErrNotLeader) {
		t.Errorf("on a follower: %v, want %v", err, ErrNotLeader)
	}
}

func TestLimitsOfACommand(t *testing.T) {
	c := newCluster(t, 3, nil)
	for _, h := range c.hosts[:2] { // the leader and a follower
		if _, err := h.Propose(context.Background(), make([]byte, CommandBytesMax+1)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: got %v, want %v", h.name, err, ErrTooLarge)
		}
		big := strings.Repeat("b", CommandBytesMax-len(h.name)) + h.name
		c.propose(h, big)
		if !h.sm.has(big) {
			t.Errorf("%s: the largest command is not applied", h.name)
		}
	}
}
