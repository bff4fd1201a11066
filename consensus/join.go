package consensus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

const (
	joinPause    = 50 * time.Millisecond // doubles up to joinPauseMax while nobody answers
	joinPauseMax = time.Second
	// stablePauseMax is what it grows to while the leader waits and sees.
	stablePauseMax = 400 * time.Millisecond
	joinCallMax    = 5 * time.Second // for one answer
)

// Join asks the leader, through any of the seeds (host:port), to add this node,
// until it is a voter at its address. It returns at once where it is one
// already. Errors: ErrForeign, ErrNameTaken and ErrRefused, in which trying
// again would not help, ErrStopped and the context's own.
func (n *Node) Join(ctx context.Context, seeds []string) error {
	n.joining.Add(1)
	defer n.joining.Add(-1)
	pause, said, answered := joinPause, "", false
	for {
		if n.isVoterHere() {
			return nil
		}
		progress, err := n.askToJoin(ctx, seeds)
		if final(err) {
			return err
		}
		if progress != answered {
			pause, answered = joinPause, progress
		}
		if reason := fmt.Sprint(err); !progress && reason != said {
			said = reason
			n.log.Info("not yet a member, asking again", "reason", reason)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		case <-n.stopped:
			return ErrStopped
		}
		pause = longer(pause, progress)
	}
}

// longer is the next pause between two questions.
func longer(pause time.Duration, answered bool) time.Duration {
	if answered {
		return min(2*pause, stablePauseMax)
	}
	return min(2*pause, joinPauseMax)
}

// final says whether an answer to AddServer stays the same however often one asks.
func final(err error) bool {
	return errors.Is(err, ErrForeign) || errors.Is(err, ErrNameTaken) || errors.Is(err, ErrRefused)
}

// isVoterHere says whether the configuration has this node as a voter at its address.
func (n *Node) isVoterHere() bool {
	self := n.member(raft.ServerID(n.cfg.Name))
	return self != nil && self.Suffrage == raft.Voter && string(self.Address) == n.cfg.Address
}

// askToJoin asks one node after the other until one has an answer.
func (n *Node) askToJoin(ctx context.Context, seeds []string) (progress bool, err error) {
	req := &clusterv1.AddServerRequest{
		Name: n.cfg.Name, Address: n.cfg.Address, ClusterId: n.cfg.ClusterID,
		Fresh: !n.joined(), Format: n.cfg.Format,
	}
	if leader, _ := n.leader.get(); !req.Fresh && leader.ID != "" {
		// Two barriers: the leader hears this node and this node the leader.
		for range 2 {
			barrier, cancel := context.WithTimeout(ctx, n.cfg.LeaderWait)
			caughtUp := n.ReadBarrier(barrier) == nil
			cancel()
			if !caughtUp {
				break
			}
			req.AppliedIndex = n.progress.applied()
		}
	}
	voted := n.isVoterHere()
	err = errors.New("no address to ask")
	for _, to := range n.whomToAsk(seeds) {
		var resp *clusterv1.AddServerResponse
		if resp, err = n.askOne(ctx, to, req); err != nil {
			if final(err) {
				return false, err
			}
			continue
		}
		if req.Fresh {
			if err := n.setJoined(); err != nil {
				return false, err
			}
			n.streams.admit()
		}
		if resp.GetVoter() && !voted {
			n.log.Info("this control node votes")
		}
		return true, nil
	}
	return false, err
}

// whomToAsk lists the leader, if known, then the seeds, then the other members.
func (n *Node) whomToAsk(seeds []string) []raft.Server {
	var to []raft.Server
	asked := map[raft.ServerAddress]bool{raft.ServerAddress(n.cfg.Address): true, "": true}
	add := func(s raft.Server) {
		if !asked[s.Address] {
			asked[s.Address] = true
			to = append(to, s)
		}
	}
	leader, _ := n.leader.get()
	add(leader)
	for _, seed := range seeds {
		add(raft.Server{Address: raft.ServerAddress(seed)})
	}
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		add(s)
	}
	return to
}

func (n *Node) askOne(ctx context.Context, to raft.Server, req *clusterv1.AddServerRequest) (*clusterv1.AddServerResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, joinCallMax)
	defer cancel()
	conn, err := n.cfg.Dial(ctx, string(to.ID), string(to.Address))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", to.Address, err)
	}
	resp, err := clusterv1.NewMembershipClient(conn).AddServer(ctx, req)
	switch status.Code(err) {
	case codes.OK:
		return resp, nil
	case codes.PermissionDenied:
		err = fmt.Errorf("%w: %s says: %s", ErrForeign, to.Address, status.Convert(err).Message())
	case codes.AlreadyExists:
		err = fmt.Errorf("%w: %s says: %s", ErrNameTaken, to.Address, status.Convert(err).Message())
	case codes.Aborted:
		err = fmt.Errorf("%w: %s", ErrRefused, strings.TrimPrefix(status.Convert(err).Message(), ErrRefused.Error()+": "))
	default:
		err = fmt.Errorf("%s: %w", to.Address, err)
	}
	return nil, err
}

const (
	memberPause = 500 * time.Millisecond // between looks at whether there is something to ask
	// silentMax: a member that hears no leader for this long asks whether it still
	// is one. Who was removed is told nothing else: it merely is not spoken to.
	silentMax = 3 * time.Second
)

// stayMember has the cluster know this node for what it is, for as long as it
// runs and once it has been let in: it says once what it reads; it asks when
// the configuration has it at another address, as a non-voter or not at all,
// and when it hears no leader. Its error is that it may not take part any more.
func (n *Node) stayMember(ctx context.Context) error {
	var greeted, moved, answered bool
	heard, said := time.Now(), ""
	pause := joinPause
	for {
		leader, changed := n.leader.get()
		if leader.ID != "" {
			heard = time.Now()
		}
		self := n.member(raft.ServerID(n.cfg.Name))
		if self != nil && string(self.Address) != n.cfg.Address && !moved {
			moved = true
			n.log.Info("this node's address has changed", "from", self.Address, "to", n.cfg.Address)
		}
		wait := memberPause
		switch l, _ := n.term.get(); {
		case !n.joined() || n.joining.Load() > 0: // Join asks
		case l != nil: // nobody else can be asked
			greeted = true
			if self != nil && string(self.Address) != n.cfg.Address {
				_ = n.change(ctx, "change this node's address", func(timeout time.Duration) raft.IndexFuture {
					return n.raft.AddVoter(self.ID, raft.ServerAddress(n.cfg.Address), 0, timeout)
				})
			}
		case n.isVoterHere() && leader.ID != "" && greeted, n.isVoterHere() && leader.ID == "" && time.Since(heard) < silentMax:
			pause = joinPause
		default:
			progress, err := n.askToJoin(ctx, n.cfg.Seeds())
			if final(err) {
				return err
			}
			if progress != answered {
				pause, answered = joinPause, progress
			}
			greeted = greeted || progress
			if reason := fmt.Sprint(err); !progress && reason != said && leader.ID != "" {
				said = reason
				n.log.Info("asking to be a member", "reason", reason)
			}
			wait, pause = pause, longer(pause, progress)
		}
		select {
		case <-changed:
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}
