package autopilot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/consensus"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/fsm"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// council is a cluster as its leader c1 sees it, with a store of one machine.
type council struct {
	mu       sync.Mutex
	machine  *fsm.Machine
	proposed int
	status   consensus.Status
	silent   map[string]time.Duration
	states   map[string]string
	answers  map[string]*clusterv1.DescribeResponse
	keys     map[string][sha256.Size]byte
	removed  []string
	added    []string
	err      error // of changes
	since    time.Time
}

func newCouncil(t *testing.T, servers int) (*council, *Autopilot) {
	c := &council{
		machine: fsm.New(fsm.Config{}), silent: map[string]time.Duration{}, states: map[string]string{},
		answers: map[string]*clusterv1.DescribeResponse{}, keys: map[string][sha256.Size]byte{},
		status: consensus.Status{Name: "c1", Leader: "c1", HasQuorum: true, LastIndex: 100},
		since:  time.Now().Add(-time.Hour),
	}
	for i := range servers {
		name := fmt.Sprintf("c%d", i+1)
		c.status.Servers = append(c.status.Servers, consensus.Server{Name: name, Address: name + ":6443", Voter: true})
		c.states[name] = "alive"
		c.keys[name] = sha256.Sum256([]byte(name))
		c.answers[name] = &clusterv1.DescribeResponse{Name: name, Leader: "c1", Version: "v1", Format: 1, LastIndex: 100, AppliedIndex: 100, LastContactMs: 40}
	}
	a := New(Config{
		Store: store.New(c, c.machine), Node: c,
		State: func(name string) (string, time.Time) {
			if state := c.states[name]; state != "" {
				return state, c.since
			}
			return "unknown", time.Time{}
		},
		Keys: func(name string) [][sha256.Size]byte {
			if key, ok := c.keys[name]; ok {
				return [][sha256.Size]byte{key}
			}
			return nil
		},
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	return c, a
}

func (c *council) Propose(_ context.Context, cmd []byte) ([]byte, error) {
	c.proposed++
	return c.machine.ApplyOne(cmd)
}
func (c *council) ReadBarrier(context.Context) error { return nil }
func (c *council) Status() consensus.Status          { return c.status }
func (c *council) Silent() map[string]time.Duration  { return c.silent }
func (c *council) WhileSettled(f func([]consensus.Server) error) error {
	return f(c.status.Servers)
}

func (c *council) Describe(_ context.Context, name, address string) (*clusterv1.DescribeResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if it := c.answers[name]; it != nil {
		return it, nil
	}
	return nil, fmt.Errorf("%s does not answer at %s", name, address)
}

func (c *council) AddServer(_ context.Context, name, address string) (bool, error) {
	if c.err == nil {
		c.added = append(c.added, name+" "+address)
	}
	return false, c.err
}

func (c *council) RemoveServer(_ context.Context, name string) error {
	if c.err == nil {
		c.removed = append(c.removed, name)
		c.status.Servers = slices.DeleteFunc(slices.Clone(c.status.Servers), func(s consensus.Server) bool { return s.Name == name })
	}
	return c.err
}

func (c *council) candidate(name, key string) consensus.Candidate {
	hash := sha256.Sum256([]byte(key))
	it := consensus.Candidate{Name: name, Address: name + ":6443", Key: hash[:], Format: 1}
	for _, s := range c.status.Servers {
		it.Member = it.Member || s.Name == name
	}
	return it
}

// A machine that was removed may be switched on again at any time. It is told
// from one that took its place by its key, and from one that it has become by
// making itself a new one, by what the token gave out.
func TestRemovedNodeStaysOut(t *testing.T) {
	c, a := newCouncil(t, 3)
	if err := a.Admit(t.Context(), c.candidate("c3", "c3")); err != nil {
		t.Fatalf("a member: %v", err)
	}
	if err := a.Remove(t.Context(), "c3"); err != nil {
		t.Fatal(err)
	}
	if !a.Removed("c3") || a.Removed("c2") || a.Removed("c9") {
		t.Error("it does not know who was removed")
	}
	refused := func(what string, it consensus.Candidate) {
		t.Helper()
		err := a.Admit(t.Context(), it)
		if !errors.Is(err, consensus.ErrRefused) {
			t.Errorf("%s: got %v, want it refused", what, err)
			return
		}
		for _, want := range []string{"c3 was removed on 20", "by muster operator raft remove-peer", "move its data directory away", "raft add-peer c3 c3:6443"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %q, want %q in it", what, err, want)
			}
		}
	}
	refused("it comes back", c.candidate("c3", "c3"))
	refused("it comes back with a key that it has made itself", c.candidate("c3", "renewed"))
	moved := c.candidate("c3", "c3")
	moved.Member, moved.Moved = true, true

	c.keys["c3"] = sha256.Sum256([]byte("new machine")) // by a token
	if err := a.Admit(t.Context(), c.candidate("c3", "new machine")); err != nil {
		t.Errorf("a new machine of that name: %v", err)
	}
	refused("the old machine, while the new one has the name", c.candidate("c3", "c3"))
	refused("the old machine, at another address than the new one, which is a member", moved)
	if err := a.Admit(t.Context(), c.candidate("c4", "c4")); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	if err := a.Remove(t.Context(), "c3"); err != nil {
		t.Fatal(err)
	}
	refused("the first machine, after the second was removed, too", c.candidate("c3", "c3"))
	refused("the second machine", c.candidate("c3", "new machine"))

	if _, err := a.Add(t.Context(), "c3", "c3:6443"); err != nil {
		t.Fatal(err)
	}
	if err := a.Admit(t.Context(), c.candidate("c3", "c3")); err != nil || len(c.added) != 1 {
		t.Errorf("after add-peer: %v, added %v", err, c.added)
	}
}

// What was not done must not keep a member out later.
func TestFailedRemovalIsForgotten(t *testing.T) {
	c, a := newCouncil(t, 3)
	c.err = fmt.Errorf("remove: %w", consensus.ErrNotLeader)
	if err := a.Remove(t.Context(), "c3"); !errors.Is(err, consensus.ErrNotLeader) {
		t.Fatalf("got %v", err)
	}
	if _, _, err := a.removal("c3"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v, want no word of it", err)
	}
	// Where it is not known whether it was done it stays written, which does not
	// hurt a member that is where it was.
	c.err = fmt.Errorf("remove: %w", consensus.ErrOutcomeUnknown)
	_ = a.Remove(t.Context(), "c3")
	if _, _, err := a.removal("c3"); err != nil {
		t.Errorf("outcome unknown: %v", err)
	}
	if err := a.Admit(t.Context(), c.candidate("c3", "c3")); err != nil {
		t.Errorf("it is a member still: %v", err)
	}
}

func TestOlderFormatIsRefused(t *testing.T) {
	c, a := newCouncil(t, 3)
	if _, err := a.Store.System().Create(t.Context(), "format", []byte("5")); err != nil {
		t.Fatal(err)
	}
	for format, ok := range map[uint32]bool{1: false, 4: false, 5: true, 6: true} {
		it := c.candidate("c3", "c3")
		it.Format = format
		err := a.Admit(t.Context(), it)
		if ok && err != nil || !ok && (!errors.Is(err, consensus.ErrRefused) || !strings.Contains(err.Error(), "start the newer version")) {
			t.Errorf("format %d: got %v", format, err)
		}
	}
	c.answers["c4"] = &clusterv1.DescribeResponse{Name: "c4", Format: 4}
	if _, err := a.Add(t.Context(), "c4", "c4:6443"); !errors.Is(err, consensus.ErrRefused) || len(c.added) > 0 {
		t.Errorf("add-peer of an older build: got %v, added %v", err, c.added)
	}
	if _, err := a.Add(t.Context(), "c5", "c5:6443"); err != nil {
		t.Errorf("add-peer of one that does not run: %v", err)
	}
}

func TestDutyRemovesTheDeadOnce(t *testing.T) {
	c, a := newCouncil(t, 5)
	for _, name := range []string{"c4", "c5"} {
		c.states[name], c.silent[name] = "dead", time.Hour
	}
	for _, want := range []string{"[c4]", "[c4 c5]", "[c4 c5]"} {
		if err := a.cleanUp(t.Context(), a.Store); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(c.removed); got != want {
			t.Errorf("removed %s, want %s", got, want)
		}
	}
	if err := a.Admit(t.Context(), c.candidate("c4", "c4")); err == nil || !strings.Contains(err.Error(), "by clean-up, after 10m0s without a sign of life") {
		t.Errorf("it comes back: %v", err)
	}
}

// A look of the duty at a cluster in order asks nobody and writes nothing.
func TestIdleDutyWritesNothing(t *testing.T) {
	c, a := newCouncil(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := a.Run(ctx, a.Store); err != nil || c.proposed > 0 {
		t.Errorf("got %v and %d writes", err, c.proposed)
	}
}

func TestSettingsAreKeptAndChecked(t *testing.T) {
	c, a := newCouncil(t, 3)
	if got := a.Settings(t.Context()); got.GetDeadServerAfterSeconds() != 600 || got.GetMinVoters() != 3 || got.GetStableAfterSeconds() != 2 || !got.GetCleanupDeadServers() {
		t.Errorf("by default %v", got)
	}
	set := func(s *clusterv1.AutopilotSettings) error {
		_, err := a.SetSettings(t.Context(), s)
		return err
	}
	if err := errors.Join(set(&clusterv1.AutopilotSettings{MinVoters: proto.Uint32(5)}), set(&clusterv1.AutopilotSettings{StableAfterSeconds: proto.Int64(0)})); err != nil {
		t.Fatal(err)
	}
	if got := a.Settings(t.Context()); got.GetMinVoters() != 5 || got.GetStableAfterSeconds() != 0 || got.GetDeadServerAfterSeconds() != 600 {
		t.Errorf("got %v, want what was set and the rest as it was", got)
	}
	before := c.proposed
	for want, s := range map[string]*clusterv1.AutopilotSettings{
		"min-voters":        {MinVoters: proto.Uint32(0)},
		"dead-server-after": {DeadServerAfterSeconds: proto.Int64(0)},
		"stable-after":      {StableAfterSeconds: proto.Int64(-1)},
	} {
		if err := set(s); !errors.Is(err, ErrSettings) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q named", s, err, want)
		}
	}
	if c.proposed != before {
		t.Error("a wrong setting was written")
	}
	if a.StableAfter(2) != 0 {
		t.Error("the third voter has to wait")
	}
	if err := set(&clusterv1.AutopilotSettings{StableAfterSeconds: proto.Int64(7)}); err != nil || a.StableAfter(3) != 7*time.Second {
		t.Errorf("the fourth voter waits %v, %v; want 7 s", a.StableAfter(3), err)
	}
}

func TestHealth(t *testing.T) {
	for _, test := range []struct {
		name      string
		change    func(*council)
		healthy   bool
		tolerance uint32
		reason    string // of c3
		warning   string
	}{
		{"all well", func(*council) {}, true, 1, "", ""},
		{"c3 is dead", func(c *council) { c.answers["c3"], c.states["c3"] = nil, "dead" }, false, 0, "does not answer at c3:6443", "c3 is gone (dead): start it, or take it out"},
		{"c3 is dead and due", func(c *council) {
			c.answers["c3"], c.states["c3"], c.silent["c3"] = nil, "dead", time.Hour
		}, false, 0, "does not answer", "clean-up does not remove it (that would leave 2 voters"},
		{"c3 hears no leader", func(c *council) { c.answers["c3"].Leader = "" }, false, 0, "hears no leader", ""},
		{"c3 follows another", func(c *council) { c.answers["c3"].Leader = "c2" }, false, 0, "takes c2 for the leader", ""},
		{"c3 heard the leader long ago", func(c *council) { c.answers["c3"].LastContactMs = 5000 }, false, 0, "for 5s", ""},
		{"c3 lags", func(c *council) { c.answers["c1"].LastIndex = 9000 }, false, 0, "8900 entries behind", ""},
		{"c3 does not get on with applying", func(c *council) { c.answers["c3"].LastIndex = 5000 }, false, 0, "4900 entries still to apply", ""},
		{"the disk of c3 is full", func(c *council) { c.answers["c3"].Disk = clusterv1.DiskState_DISK_FULL }, false, 0, "disk is full", "the disk of c3 is full"},
		{"c3 runs another version", func(c *council) { c.answers["c3"].Version = "v2" }, true, 1, "", "v1 on c1, c2; v2 on c3"},
		{"c3 reads more", func(c *council) { c.answers["c3"].Format = 2 }, true, 1, "", "writes commands of format 1 until c1, c2 runs a newer version"},
		{"c3 does not vote", func(c *council) { c.status.Servers[2].Voter = false }, true, 0, "", "c3 does not vote yet"},
		{"c3 does not vote and lags", func(c *council) {
			c.status.Servers[2].Voter = false
			for _, name := range []string{"c1", "c2"} {
				c.answers[name].LastIndex, c.answers[name].AppliedIndex = 9000, 9000
			}
		}, true, 0, "8900 entries behind", "c3 does not vote: it is 8900 entries behind"},
		{"two voters", func(c *council) { c.status.Servers = c.status.Servers[:2] }, true, 0, "", "2 voters survive the loss of no more of them than 1"},
		{"no leader", func(c *council) {
			c.status.Leader, c.status.HasQuorum = "", false
			for _, name := range []string{"c1", "c2", "c3"} {
				c.answers[name].Leader = ""
			}
		}, false, 0, "hears no leader", "no quorum"},
		{"no leader, and c2 and c3 are dead", func(c *council) {
			c.status.Leader, c.status.HasQuorum, c.answers["c1"].Leader = "", false, ""
			for _, name := range []string{"c2", "c3"} {
				c.answers[name], c.states[name] = nil, "dead"
			}
		}, false, 0, "does not answer", "lost for good, see muster operator recover"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, a := newCouncil(t, 3)
			c.answers["c1"].LastContactMs = 0
			test.change(c)
			got := a.Health(t.Context())
			reason := ""
			for _, s := range got.Servers {
				if s.Name == "c3" {
					reason = s.Reason
				}
				if s.Healthy != (s.Reason == "") || s.Since == 0 {
					t.Errorf("got %v", s)
				}
			}
			if got.Healthy != test.healthy || !strings.Contains(reason, test.reason) || test.reason == "" && reason != "" {
				t.Errorf("healthy %v, reason %q; want %v, %q", got.Healthy, reason, test.healthy, test.reason)
			}
			if got.FailureTolerance != test.tolerance {
				t.Errorf("failure tolerance %d, want %d", got.FailureTolerance, test.tolerance)
			}
			if all := strings.Join(got.Warnings, "\n"); !strings.Contains(all, test.warning) || test.warning == "" && test.reason == "" && all != "" {
				t.Errorf("warnings %q, want one with %q", all, test.warning)
			} else if !got.Quorum && strings.Contains(all, "take it out") {
				t.Errorf("warnings %q advise what nobody can do without a quorum", all)
			}
		})
	}
}

// Since when is what an operator asks first. It survives looking again.
func TestHealthSaysSinceWhen(t *testing.T) {
	c, a := newCouncil(t, 3)
	since := func() int64 { return a.Health(t.Context()).Servers[2].Since }
	if got := since(); got != c.since.Unix() {
		t.Errorf("well since %d, want since gossip has it alive, %d", got, c.since.Unix())
	}
	before := time.Now().Unix()
	c.answers["c3"].Leader = ""
	first := since()
	if first < before {
		t.Errorf("unwell since %d, want not before %d", first, before)
	}
	if again := since(); again != first {
		t.Errorf("unwell since %d, then since %d", first, again)
	}
}
