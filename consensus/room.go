package consensus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/musterhq/muster/consensus/rhythm"
)

// A full disk refuses writes and nothing else. The log's segments are allocated
// ahead, so an append that is under way always has its place. While there is no
// segment in reserve, or hardly any space for a snapshot, this node counts as
// full: what is left of the active segment is for raft's own entries, by which
// leaders and members change. The leader takes no commands while a quorum would
// not have room for them; one that is full itself hands leadership on.

const (
	roomTick = 500 * time.Millisecond
	// Space on the file system below which a node is full, and above which it is not any more.
	roomLow, roomEnough = 16 << 20, 32 << 20
	// handOnMax is how long commands wait for a leader that has room, handOnPause
	// how long after a failure it is tried again.
	handOnMax, handOnPause = 2 * time.Second, time.Second
)

// room is whether this node's disk takes more of the log.
type room struct {
	look chan struct{} // room for one: there is reason to look now
	full watched[bool]
	free atomic.Uint64
}

func newRoom() *room { return &room{look: make(chan struct{}, 1)} }

// isFull decides with hysteresis. starved: a segment was needed and could not
// be made; reserve: the next one is there.
func isFull(was bool, free uint64, starved, reserve bool) bool {
	if was {
		return starved || !reserve || free < roomEnough
	}
	return starved || free < roomLow
}

func (n *Node) watchRoom(ctx context.Context) {
	for {
		n.lookForRoom()
		if l, _ := n.term.get(); l != nil {
			l.judgeRoom(ctx)
		}
		_, changed := n.term.get()
		select {
		case <-rhythm.After(roomTick):
		case <-n.room.look:
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) lookForRoom() {
	free, err := n.cfg.Disk.Free(n.dir.path)
	if err != nil {
		n.log.Debug("free space is not known", "error", err)
		free = roomEnough // what the log says counts
	}
	n.room.free.Store(free)
	was, _ := n.room.full.get()
	full := isFull(was, free, n.dir.log.Starved(), n.dir.log.Reserve())
	switch {
	case full && !was:
		n.log.Error("the disk is full: no commands are stored until there is room; reads go on", "dir", n.dir.path, "free", free)
	case was && !full:
		n.log.Info("the disk has room again", "dir", n.dir.path, "free", free)
	}
	n.room.full.set(full)
}

// followersRoom is what a leader knows of the others' disks.
type followersRoom struct {
	mu       sync.Mutex
	full     map[string]bool
	refusing atomic.Pointer[refusal]
	tried    time.Time // the last try to hand on
}

// refusal is why a leader takes no commands, since when.
type refusal struct {
	err   error
	since time.Time
	// another node could lead.
	passing bool
}

// Disk is a follower's word on its disk.
func (l *leadership) Disk(follower string, full bool) {
	l.room.mu.Lock()
	if l.room.full == nil {
		l.room.full = map[string]bool{}
	}
	l.room.full[follower] = full
	l.room.mu.Unlock()
	poke(l.node.room.look)
}

// refuses says why no command is taken now; nil if it is. While leadership is
// handed on they are to wait for the new leader.
func (l *leadership) refuses() error {
	r := l.room.refusing.Load()
	switch {
	case r == nil:
		return nil
	case r.passing && time.Since(r.since) < handOnMax:
		return ErrNotLeader
	default:
		return r.err
	}
}

// judgeRoom decides whether commands are taken, and hands leadership on if
// another voter has room and this node has not.
func (l *leadership) judgeRoom(ctx context.Context) {
	n := l.node
	voters := votersOf(n.raft.GetConfiguration().Configuration())
	here, _ := n.room.full.get()
	var full, roomy []string
	said := map[string]bool{} // who certainly has room
	l.room.mu.Lock()
	for _, v := range voters {
		name := string(v.ID)
		if name == n.cfg.Name && here || name != n.cfg.Name && l.room.full[name] {
			full = append(full, name)
		} else {
			roomy = append(roomy, name)
			_, said[name] = l.room.full[name]
		}
	}
	tried := l.room.tried
	l.room.mu.Unlock()
	quorum := len(roomy) >= len(voters)/2+1
	if quorum && !here {
		l.room.refusing.Store(nil)
		return
	}
	r := &refusal{since: time.Now(), passing: quorum}
	if old := l.room.refusing.Load(); old != nil && old.passing == r.passing {
		r.since = old.since
	}
	slices.Sort(full)
	r.err = fmt.Errorf("%w (full: %s)", ErrNoSpace, strings.Join(full, ", "))
	l.room.refusing.Store(r)
	certain := 0
	for _, sure := range said {
		if sure {
			certain++
		}
	}
	if certain < len(voters)/2+1 || time.Since(tried) < handOnPause {
		return
	}
	l.room.mu.Lock()
	l.room.tried = time.Now()
	l.room.mu.Unlock()
	for _, v := range voters {
		if string(v.ID) == n.cfg.Name || !said[string(v.ID)] {
			continue
		}
		future := n.raft.LeadershipTransferToServer(v.ID, v.Address)
		n.log.Info("handing leadership on, as the disk is full", "to", v.ID)
		n.background.start(func() {
			if err := future.Error(); err != nil && !errors.Is(err, raft.ErrNotLeader) {
				n.log.Debug("leadership was not handed on", "to", v.ID, "error", err)
			}
		})
		return
	}
}
