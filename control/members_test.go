package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// member is a control node of a test with its directory.
type member struct {
	cfg    Config
	server *Server
	cancel context.CancelFunc
	ended  chan error
}

type membersTest struct {
	*testing.T
	first *member
}

// place is a directory and an address for a control node, that makes a cluster
// or joins the first one's.
func (t *membersTest) place(name string) *member {
	t.Helper()
	cfg := Config{
		Dir: t.TempDir(), Name: name, Address: freeAddress(t.T), GossipAddress: "127.0.0.1:0", GossipFast: true,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)).With("node", name),
	}
	cfg.Listen = cfg.Address
	if t.first == nil {
		cfg.Init = true
		t.first = &member{cfg: cfg}
		return t.first
	}
	token, err := os.ReadFile(filepath.Join(t.first.cfg.Dir, serverTokenFile))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Join, cfg.Token = []string{t.first.cfg.Address}, strings.TrimSpace(string(token))
	return &member{cfg: cfg}
}

func (t *membersTest) start(m *member) *member {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	server, err := New(ctx, m.cfg)
	if err != nil {
		cancel()
		t.Fatalf("start %s: %v", m.cfg.Name, err)
	}
	m.server, m.cancel, m.ended = server, cancel, make(chan error, 1)
	go func() { m.ended <- server.Run(ctx) }()
	t.Cleanup(func() { cancel(); m.ended <- <-m.ended })
	return m
}

func (t *membersTest) stop(m *member) {
	t.Helper()
	m.cancel()
	err := <-m.ended
	m.ended <- err // for whoever asks again
	if err != nil {
		t.Errorf("%s ended with %v", m.cfg.Name, err)
	}
}

func (t *membersTest) eventually(what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// voters waits until exactly these vote, as the first node sees it.
func (t *membersTest) voters(want ...string) {
	t.Helper()
	t.eventually(fmt.Sprint("the voters are ", want), func() bool {
		var voters []string
		status := t.first.server.node.Status()
		for _, s := range status.Servers {
			if s.Voter {
				voters = append(voters, s.Name)
			}
		}
		return status.HasQuorum && len(status.Servers) == len(want) && fmt.Sprint(voters) == fmt.Sprint(want)
	})
}

// refused waits until a node ends by itself, and why.
func (t *membersTest) refused(what string, m *member, wants ...string) {
	t.Helper()
	select {
	case err := <-m.ended:
		m.ended <- err
		text := fmt.Sprint(err)
		for _, want := range wants {
			if !errors.Is(err, ErrRefused) || !strings.Contains(text, want) || strings.Contains(text, "\n") {
				t.Errorf("%s: ended with %q, want one line with %q", what, text, want)
			}
		}
	case <-time.After(time.Minute):
		t.Fatalf("%s: it still runs", what)
	}
}

func newMembersTest(t *testing.T, names ...string) (*membersTest, map[string]*member) {
	test := &membersTest{T: t}
	members := map[string]*member{}
	for i, name := range names {
		members[name] = test.start(test.place(name))
		if i == 0 {
			<-members[name].server.Ready()
		}
		test.voters(names[:i+1]...)
	}
	return test, members
}

// lead has whichever node leads do something.
func (t *membersTest) lead(members map[string]*member, do func(*Server) error) {
	t.Helper()
	var last error
	t.eventually(fmt.Sprint("the leader does it: ", last), func() bool {
		for _, m := range members {
			if status := m.server.node.Status(); status.Leader == status.Name {
				last = do(m.server)
				return last == nil
			}
		}
		return false
	})
}

// A machine that was taken out of the cluster may be started again, next week
// or while another has its name. It must say that it was removed, and must not
// come back in place of its successor.
func TestRemovedControlNodeStaysOut(t *testing.T) {
	test, members := newMembersTest(t, "c1", "c2", "c3")
	old := members["c3"]
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	test.lead(members, func(s *Server) error { return s.autopilot.Remove(ctx, "c3") })
	delete(members, "c3")
	test.voters("c1", "c2")
	why := []string{"c3 was removed on 2", "move its data directory away", "muster operator raft add-peer c3 " + old.cfg.Address}
	test.refused("while it runs", old, why...)
	test.refused("started again", test.start(old), why...)

	successor := test.start(test.place("c3"))
	test.voters("c1", "c2", "c3")
	test.refused("while another has its name", test.start(old), why...)
	test.stop(successor)
	test.refused("while the other is down", test.start(old), why...)

	test.lead(members, func(s *Server) error { return s.autopilot.Remove(ctx, "c3") })
	test.lead(members, func(s *Server) error {
		_, err := s.autopilot.Add(ctx, "c3", old.cfg.Address)
		return err
	})
	test.start(old)
	test.voters("c1", "c2", "c3")
	select {
	case err := <-old.ended:
		t.Errorf("after add-peer it ended with %v", err)
	default:
	}
}

// The leader takes out who is dead for good, and never so many that the rest
// could not go on. Who was taken out stays out.
func TestDeadControlNodeIsRemoved(t *testing.T) {
	test, members := newMembersTest(t, "c1", "c2", "c3", "c4")
	_, err := members["c1"].server.autopilot.SetSettings(t.Context(), &clusterv1.AutopilotSettings{DeadServerAfterSeconds: proto.Int64(1)})
	if err != nil {
		t.Fatal(err)
	}
	test.stop(members["c4"])
	test.voters("c1", "c2", "c3")
	test.refused("started again", test.start(members["c4"]), "c4 was removed on 2", "by clean-up, after 1s without a sign of life")

	// One of three stays in, however long it is gone.
	test.stop(members["c3"])
	var health *clusterv1.AutopilotResponse
	test.eventually("the leader says why c3 is not removed", func() bool {
		for _, name := range []string{"c1", "c2"} {
			if s := members[name].server; s.node.Status().Leader == name {
				health = s.autopilot.Health(t.Context())
			}
		}
		return strings.Contains(strings.Join(health.GetWarnings(), " "), "min-voters is 3")
	})
	if health.Healthy || health.FailureTolerance != 0 || len(health.Servers) != 3 {
		t.Errorf("got %v, want unwell, and three servers", health)
	}
	test.voters("c1", "c2", "c3")
}
