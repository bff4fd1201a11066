package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	"github.com/musterhq/muster/test/chaos/check"
	"github.com/musterhq/muster/test/chaos/lan"
)

const (
	// What the nemesis waits for at most. They are promises, but with room for a
	// machine that has much else to do.
	rejoinMax = 60 * time.Second
	exitMax   = 30 * time.Second
)

// nemesis carries out a schedule.
func (r *run) nemesis(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := pause(ctx, s.at-r.now()); err != nil {
			return nil
		}
		if r.broken() {
			r.Log.Info("the rest of the schedule is left out, as there is a violation already")
			return nil
		}
		if r.now() > r.Time {
			r.Log.Info("no time left for the rest of the schedule")
			return nil
		}
		var group errgroup.Group
		nodes := r.targets(ctx, s.faults)
		for i, f := range s.faults {
			group.Go(func() error {
				r.Log.Info("fault", "at", r.now().Round(time.Millisecond), "fault", f.String(), "nodes", names(nodes[i]))
				if err := r.inflict(ctx, f, nodes[i], s.hold); err != nil {
					return fmt.Errorf("%v: %w", f, err)
				}
				r.Log.Info("healed", "at", r.now().Round(time.Millisecond), "fault", f.String())
				return nil
			})
		}
		if err := group.Wait(); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// targets finds out who is meant, once for all faults of a step. Without a
// leader the first node takes its part.
func (r *run) targets(ctx context.Context, faults []fault) [][]*node {
	first := r.cluster.leader(ctx)
	if first == nil {
		first = r.cluster.nodes[0]
	}
	var rest []*node
	for _, n := range r.cluster.nodes {
		if n != first {
			rest = append(rest, n)
		}
	}
	var all [][]*node
	for _, f := range faults {
		switch f.target.role {
		case leader:
			all = append(all, []*node{first})
		case follower:
			all = append(all, []*node{rest[f.target.n]})
		case numbered:
			all = append(all, []*node{r.cluster.nodes[f.target.n]})
		default:
			all = append(all, r.cluster.nodes)
		}
	}
	return all
}

func names(nodes []*node) string {
	var all []string
	for _, n := range nodes {
		all = append(all, n.name)
	}
	return strings.Join(all, ",")
}

// inflict puts a fault on nodes, holds it, and takes it away.
func (r *run) inflict(ctx context.Context, f fault, nodes []*node, hold time.Duration) error {
	n := nodes[0]
	switch f.kind {
	case "kill", "kill-all":
		for _, n := range nodes {
			n.kill()
		}
		_ = pause(ctx, hold)
		for _, n := range nodes {
			if err := r.restart(n); err != nil {
				return err
			}
		}
		return nil
	case "stop":
		_ = n.signal(syscall.SIGSTOP) // it may just have ended
		_ = pause(ctx, hold)
		_ = n.signal(syscall.SIGCONT)
		return nil
	case "isolate", "deaf", "mute", "bridge", "link":
		r.links(f, nodes, false)
		_ = pause(ctx, hold)
		r.links(f, nodes, true)
		return nil
	case "slow":
		return r.told(ctx, nodes, fmt.Sprintf("disk %v", f.slow), "disk ok", hold)
	case "hung", "full":
		for _, n := range nodes {
			n.excuse(true)
			defer n.excuse(false)
		}
		if err := r.told(ctx, nodes, "disk "+f.kind, "disk ok", hold); err != nil {
			return err
		}
		for _, n := range nodes {
			if err := r.restart(n); err != nil {
				return err
			}
		}
		return nil
	case "clock":
		for _, n := range nodes {
			n.keepClock(f.clock)
		}
		err := r.told(ctx, nodes, fmt.Sprintf("clock %v", f.clock), "", hold)
		for _, n := range nodes {
			n.keepClock(0) // first, or a process that starts in between keeps the wrong one
			r.ended(n, "clock 0s")
		}
		return err
	case "failing":
		return r.fail(ctx, n, hold)
	case "wipe", "remove":
		return r.replace(ctx, n, hold, f.kind == "remove")
	case "forget":
		return r.forget(ctx, n, hold)
	case "transfer":
		r.transfers(ctx, hold)
		return nil
	default:
		return errors.New("no such fault")
	}
}

// restart starts a node unless it runs.
func (r *run) restart(n *node) error {
	if n.up() {
		return nil
	}
	return n.start()
}

// told tells nodes of a fault, and after a while of its end, unless that is "".
func (r *run) told(ctx context.Context, nodes []*node, begin, end string, hold time.Duration) error {
	for _, n := range nodes {
		clock, err := n.fault(begin)
		if err != nil {
			r.skipped(n, begin, err)
		} else if jump, ok := strings.CutPrefix(begin, "clock "); ok {
			want, _ := time.ParseDuration(jump)
			if got := time.Until(clock); (got - want).Abs() > time.Minute {
				return fmt.Errorf("the clock of %s is off by %v, want %v", n.name, got, want)
			}
		}
	}
	_ = pause(ctx, hold)
	for _, n := range nodes {
		if end != "" {
			r.ended(n, end)
		}
	}
	return nil
}

func (r *run) ended(n *node, end string) {
	if err := n.endFault(end); err != nil {
		r.Log.Warn("fault not ended", "node", n.name, "fault", end, "error", err)
	}
}

// skipped notes a fault that did not come about, as the node had just ended.
func (r *run) skipped(n *node, what string, err error) {
	r.Log.Warn("fault not begun", "node", n.name, "fault", what, "error", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missed++
}

// links puts a fault on the links that it is about, or heals them.
func (r *run) links(f fault, nodes []*node, heal bool) {
	rule := lan.Link{Cut: true}
	if f.kind == "link" {
		rule = f.rule
	}
	if heal {
		rule = lan.Link{}
	}
	n := nodes[0]
	for _, a := range r.cluster.nodes {
		for _, b := range r.cluster.nodes {
			if a == b {
				continue
			}
			hit := false
			switch f.kind {
			case "isolate":
				hit = a == n || b == n
			case "deaf":
				hit = b == n
			case "mute":
				hit = a == n
			case "bridge":
				hit = a != n && b != n
			case "link":
				hit = len(nodes) > 1 || a == n || b == n
			}
			if hit {
				r.cluster.lan.Set(a.index, b.index, rule)
			}
		}
	}
}

// fail has a node's disk fail. The node must end, as what it has written may
// not be there when it looks again (Rebello et al., "Can Applications Recover
// from fsync Failures?", 2020); what it has acknowledged is safe with it.
func (r *run) fail(ctx context.Context, n *node, hold time.Duration) error {
	n.excuse(true)
	defer n.excuse(false)
	if _, err := n.fault("disk failing"); err != nil {
		r.skipped(n, "disk failing", err)
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, exitMax)
	defer cancel()
	if err := n.awaitExit(waiting); err != nil && ctx.Err() == nil {
		r.found(check.Alive, "%v %v after its disk began to fail every sync", err, exitMax)
		n.kill()
	}
	_ = pause(ctx, hold)
	return r.restart(n)
}

// replace takes a node's disk and has it join anew, as an operator does: removed
// from the cluster while it is alive, or when it is dead. Two nodes must have
// everything before the third may lose it.
func (r *run) replace(ctx context.Context, n *node, hold time.Duration, alive bool) error {
	if !r.wellBefore(ctx, n) {
		return nil
	}
	// A node that is removed may end by itself.
	n.excuse(true)
	defer n.excuse(false)
	if !alive {
		n.kill()
		_ = pause(ctx, hold)
	}
	// Without this the name would stay with the disk that is gone.
	removing, cancel := context.WithTimeout(ctx, rejoinMax)
	defer cancel()
	if err := r.remove(removing, n); err != nil {
		if ctx.Err() == nil {
			r.found(check.Available, "%s was not removed within %v: %v", n.name, rejoinMax, err)
		}
		return r.restart(n)
	}
	if alive {
		_ = pause(ctx, hold)
	}
	n.kill()
	if err := n.wipe(); err != nil {
		return err
	}
	if err := n.join(); err != nil {
		return err
	}
	n.excuse(false)
	r.wellAfter(ctx, n)
	return nil
}

// forget takes a node's log and snapshots, with its term and its votes, and
// leaves it its name and its keys: it must start over as one that does not vote.
func (r *run) forget(ctx context.Context, n *node, hold time.Duration) error {
	if !r.wellBefore(ctx, n) {
		return nil
	}
	n.kill()
	_ = pause(ctx, hold)
	if err := os.RemoveAll(filepath.Join(n.dir, "raft")); err != nil {
		return err
	}
	if err := n.start(); err != nil {
		return err
	}
	r.wellAfter(ctx, n)
	return nil
}

// wellBefore waits until a node may lose what it has.
func (r *run) wellBefore(ctx context.Context, n *node) bool {
	ctx, cancel := context.WithTimeout(ctx, rejoinMax)
	defer cancel()
	err := r.cluster.awaitHealthy(ctx)
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		r.found(check.Available, "before %s was to lose what it has, after %v: %v", n.name, rejoinMax, err)
	}
	return err == nil
}

// wellAfter waits until it is a full member again.
func (r *run) wellAfter(ctx context.Context, n *node) {
	ctx, cancel := context.WithTimeout(ctx, rejoinMax)
	defer cancel()
	if err := r.cluster.awaitHealthy(ctx); err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		r.found(check.Available, "%v after %s came back with nothing: %v", rejoinMax, n.name, err)
	}
}

// remove asks whoever leads.
func (r *run) remove(ctx context.Context, n *node) error {
	for {
		err := errors.New("nobody leads")
		if at := r.cluster.leader(ctx); at != nil {
			asking, cancel := context.WithTimeout(ctx, 10*time.Second)
			_, err = clusterv1.NewRaftClient(at.conn).RemovePeer(asking, &clusterv1.RemovePeerRequest{Name: n.name})
			cancel()
			if err == nil {
				return nil
			}
			if peers, asked := at.peers(ctx); asked == nil && !has(peers, n.name) {
				return nil
			}
		}
		if pause(ctx, 200*time.Millisecond) != nil {
			return err
		}
	}
}

func has(peers *clusterv1.ListPeersResponse, name string) bool {
	for _, p := range peers.Peers {
		if p.Name == name {
			return true
		}
	}
	return false
}

// transfers hands leadership on a few times.
func (r *run) transfers(ctx context.Context, hold time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, hold)
	defer cancel()
	for ctx.Err() == nil {
		if at := r.cluster.leader(ctx); at != nil {
			if response, err := clusterv1.NewRaftClient(at.conn).TransferLeadership(ctx, &clusterv1.TransferLeadershipRequest{}); err != nil {
				r.Log.Info("leadership not handed on", "error", err)
			} else {
				r.Log.Info("leadership handed on", "from", at.name, "to", response.Leader)
			}
		}
		_ = pause(ctx, 700*time.Millisecond)
	}
}
