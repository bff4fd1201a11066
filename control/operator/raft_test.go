package operator

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

var errNotLeader = errors.New("not the leader")

// council is a cluster of control nodes c1, c2, … as c1 sees it.
type council struct {
	mu      sync.Mutex
	view    View
	removed []string
	added   []string
	err     error  // of all verbs
	heir    string // who leads after a transfer
}

func newCouncil(states ...string) *council {
	c := &council{view: View{Name: "c1", Leader: "c1", LeaderAddress: "10.0.0.1:6443", HasQuorum: true, Term: 3, LastIndex: 20, AppliedIndex: 19}}
	for i, state := range states {
		name := fmt.Sprintf("c%d", i+1)
		state, learner := strings.CutSuffix(state, " non-voter")
		c.view.Servers = append(c.view.Servers, Server{Name: name, Address: fmt.Sprintf("10.0.0.%d:6443", i+1), Voter: !learner})
		if state != "" {
			c.view.Gossip = append(c.view.Gossip, Member{Name: name, Role: "server", State: state})
		}
	}
	return c
}

func (c *council) service() *Raft {
	return NewRaft(func() View { c.mu.Lock(); defer c.mu.Unlock(); return c.view }, c, c, failures)
}

func (c *council) Removed(name string) bool { return name == "gone" }

func (c *council) Describe(context.Context) map[string]*clusterv1.DescribeResponse {
	return map[string]*clusterv1.DescribeResponse{
		"c1": {Name: "c1", LastIndex: 20, Version: "v1", Disk: clusterv1.DiskState_DISK_OK},
		"c2": {Name: "c2", LastIndex: 13, Version: "v2", Disk: clusterv1.DiskState_DISK_FULL, DiskFreeBytes: 7},
	}
}

func (c *council) Health(context.Context) *clusterv1.AutopilotResponse { return nil }

func (c *council) Settings(context.Context) *clusterv1.AutopilotSettings { return nil }

func (c *council) SetSettings(_ context.Context, s *clusterv1.AutopilotSettings) (*clusterv1.AutopilotSettings, error) {
	return s, c.err
}

func (c *council) Add(_ context.Context, name, address string) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.added = append(c.added, name+" "+address)
	}
	return false, c.err
}

func (c *council) Remove(_ context.Context, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.removed = append(c.removed, name)
	}
	return c.err
}

func (c *council) TransferLeadership(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.view.Leader = c.heir
	}
	return c.err
}

func TestListPeersWorksWithoutALeaderAndSaysSo(t *testing.T) {
	c := newCouncil("alive", "dead", "")
	c.view.Leader, c.view.LeaderAddress, c.view.HasQuorum = "", "", false
	got, err := c.service().ListPeers(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Quorum || got.Leader != "" || got.AnsweredBy != "c1" || !strings.Contains(got.Warning, "no quorum") {
		t.Errorf("got %v", got)
	}
	var states []string
	for _, p := range got.Peers {
		states = append(states, p.Name+" "+p.State)
	}
	if want := "[c1 alive c2 dead c3 unknown]"; fmt.Sprint(states) != want {
		t.Errorf("got %v, want %s", states, want)
	}
	if got.Term != 3 || got.LastIndex != 20 || got.AppliedIndex != 19 {
		t.Errorf("got term %d, last %d, applied %d; want 3, 20, 19", got.Term, got.LastIndex, got.AppliedIndex)
	}
}

// Removing the wrong one of a wounded cluster would stop it for good.
func TestRemovePeerKeepsAQuorumAlive(t *testing.T) {
	for _, test := range []struct {
		name   string
		states []string
		remove string
		force  bool
		want   codes.Code
	}{
		{"the dead of three", []string{"alive", "alive", "dead"}, "c3", false, codes.OK},
		{"a living of three with one dead", []string{"alive", "alive", "dead"}, "c2", false, codes.FailedPrecondition},
		{"the same by force", []string{"alive", "alive", "dead"}, "c2", true, codes.OK},
		{"one of three that live", []string{"alive", "alive", "alive"}, "c2", false, codes.OK},
		{"one never heard counts as dead", []string{"alive", "alive", ""}, "c2", false, codes.FailedPrecondition},
		{"one of two", []string{"alive", "alive"}, "c2", false, codes.OK},
		{"the last", []string{"alive"}, "c1", true, codes.FailedPrecondition},
		{"the last that votes", []string{"alive", "alive non-voter"}, "c1", true, codes.FailedPrecondition},
		{"who does not vote", []string{"alive", "alive", "dead", "alive non-voter"}, "c4", false, codes.OK},
		{"nobody", []string{"alive", "alive", "alive"}, "c9", false, codes.NotFound},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCouncil(test.states...)
			_, err := c.service().RemovePeer(t.Context(), &clusterv1.RemovePeerRequest{Name: test.remove, Force: test.force})
			if got := status.Code(err); got != test.want {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if done := len(c.removed) == 1; done != (test.want == codes.OK) {
				t.Errorf("removed %v", c.removed)
			}
		})
	}
}

func TestOnlyTheLeaderChangesAnything(t *testing.T) {
	for _, test := range []struct {
		name, leader, address string
		err                   error // of consensus
		want                  string
	}{
		{"a follower", "c2", "10.0.0.2:6443", nil, "c2 does, at 10.0.0.2:6443"},
		{"no leader", "", "", nil, "knows of no leader"},
		{"deposed meanwhile", "c1", "10.0.0.1:6443", fmt.Errorf("remove: %w", errNotLeader), "knows of no leader"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCouncil("alive", "alive", "alive")
			c.view.Leader, c.view.LeaderAddress, c.err = test.leader, test.address, test.err
			_, remove := c.service().RemovePeer(t.Context(), &clusterv1.RemovePeerRequest{Name: "c3"})
			_, transfer := c.service().TransferLeadership(t.Context(), &clusterv1.TransferLeadershipRequest{})
			_, add := c.service().AddPeer(t.Context(), &clusterv1.AddPeerRequest{Name: "c4", Address: "10.0.0.4:6443"})
			for verb, err := range map[string]error{"remove": remove, "transfer": transfer, "add": add} {
				if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%s: got %v, want one with %q", verb, err, test.want)
				}
			}
			if len(c.removed) > 0 || len(c.added) > 0 {
				t.Errorf("removed %v, added %v", c.removed, c.added)
			}
		})
	}
}

func TestTransferSaysWhoLeads(t *testing.T) {
	c := newCouncil("alive", "alive", "alive")
	c.heir = "c3"
	got, err := c.service().TransferLeadership(t.Context(), &clusterv1.TransferLeadershipRequest{})
	if err != nil || got.Leader != "c3" {
		t.Errorf("got %v, %v; want c3", got, err)
	}
	alone := newCouncil("alive", "alive non-voter")
	if _, err := alone.service().TransferLeadership(t.Context(), nil); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("without another voter: got %v, want FailedPrecondition", err)
	}
}

// An answer may be lost after the removal was done; to ask again must not look
// like a mistake.
func TestRemovingTwiceIsNoError(t *testing.T) {
	c := newCouncil("alive", "alive", "alive")
	got, err := c.service().RemovePeer(t.Context(), &clusterv1.RemovePeerRequest{Name: "gone"})
	if err != nil || !got.Already || len(c.removed) > 0 {
		t.Errorf("got %v, %v; removed %v", got, err, c.removed)
	}
}

func TestAddPeerSaysWhatIsWrong(t *testing.T) {
	c := newCouncil("alive", "alive", "alive")
	for _, test := range []struct {
		name, address string
		want          codes.Code
		text          string
	}{
		{"c4", "10.0.0.4:6443", codes.OK, ""},
		{"", "10.0.0.4:6443", codes.InvalidArgument, "name"},
		{"c4", "10.0.0.4", codes.InvalidArgument, "host:port"},
		{"c4", "10.0.0.2:6443", codes.AlreadyExists, "c2 is at 10.0.0.2:6443"},
	} {
		_, err := c.service().AddPeer(t.Context(), &clusterv1.AddPeerRequest{Name: test.name, Address: test.address})
		if status.Code(err) != test.want || !strings.Contains(fmt.Sprint(err), test.text) {
			t.Errorf("%q at %q: got %v, want %v with %q", test.name, test.address, err, test.want, test.text)
		}
	}
	if got := fmt.Sprint(c.added); got != "[c4 10.0.0.4:6443]" {
		t.Errorf("added %s", got)
	}
}

// Who is asked for more than the configuration says so; who does not answer is
// told from who is in order.
func TestListPeersDescribesWhoAnswers(t *testing.T) {
	c := newCouncil("alive", "alive", "dead")
	for _, leader := range []string{"c1", ""} {
		c.view.Leader = leader
		got, err := c.service().ListPeers(t.Context(), &clusterv1.ListPeersRequest{Describe: true})
		if err != nil {
			t.Fatal(err)
		}
		var words []string
		for _, p := range got.Peers {
			words = append(words, fmt.Sprint(p.Name, " ", p.Reachable, " ", p.Version, " ", p.Lag, " ", p.Disk, " ", p.DiskFreeBytes))
		}
		if want := "c1 true v1 0 DISK_OK 0, c2 true v2 7 DISK_FULL 7, c3 false  0 DISK_UNKNOWN 0"; strings.Join(words, ", ") != want {
			t.Errorf("leader %q: got  %s\nwant %s", leader, strings.Join(words, ", "), want)
		}
	}
	plain, err := c.service().ListPeers(t.Context(), &clusterv1.ListPeersRequest{})
	if err != nil || plain.Peers[0].Reachable {
		t.Errorf("got %v, %v; want nobody asked", plain, err)
	}
}
