package session_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/agent/session"
	"github.com/musterhq/muster/agent/session/sessiontest"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// handler remembers what it is told, and echoes streams.
type handler struct {
	mu       sync.Mutex
	welcomes []string
	put      []types.UID
	removed  []types.UID
	retained []map[types.UID]bool
	routes   []*agentv1.NodeRoute
	contents []string
}

func (h *handler) Node() *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
}

func (h *handler) Welcome(n *corev1.Node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.welcomes = append(h.welcomes, n.Spec.PodCIDR)
}

func (h *handler) Put(p *corev1.Pod) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.put = append(h.put, p.UID)
}

func (h *handler) Remove(uid types.UID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.removed = append(h.removed, uid)
}

func (h *handler) Retain(uids map[types.UID]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.retained = append(h.retained, uids)
}

func (h *handler) Reclaim(*agentv1.ReclaimVolume) {}

func (h *handler) Content(content *agentv1.Content) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.contents = append(h.contents, content.Namespace+"/"+content.Name)
}

func (h *handler) Network(routes []*agentv1.NodeRoute) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.routes = routes
}

func (h *handler) Stream(_ context.Context, _ *agentv1.OpenStream, frames session.Frames) {
	for {
		frame, err := frames.Recv()
		if err != nil {
			return
		}
		if frame.Close {
			_ = frames.Send(&agentv1.Frame{Result: &agentv1.StreamResult{ExitCode: 7}})
			_ = frames.CloseSend()
			continue
		}
		_ = frames.Send(frame)
	}
}

func (h *handler) syncs() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.retained)
}

func run(t *testing.T, h session.Handler, change func(*session.Config), controls ...*sessiontest.Control) *session.Session {
	t.Helper()
	cfg := session.Config{Dial: sessiontest.Dial, Handler: h, Version: "v0", Heartbeat: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range controls {
		cfg.Servers = append(cfg.Servers, c.Address)
	}
	if change != nil {
		change(&cfg)
	}
	s, err := session.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != context.Canceled {
			t.Errorf("Run ended with %v", err)
		}
	})
	return s
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
}

func TestSessionTellsWhatThereShouldBe(t *testing.T) {
	control := sessiontest.Start(t, "c1")
	control.Put(pod("a"))
	control.Put(pod("b"))
	h := &handler{}
	run(t, h, nil, control)
	sessiontest.Eventually(t, 5*time.Second, "a sync", func() bool { return h.syncs() == 1 })
	if want := (map[types.UID]bool{"a": true, "b": true}); fmt.Sprint(h.retained[0]) != fmt.Sprint(want) {
		t.Errorf("retained %v, want %v", h.retained[0], want)
	}
	if h.welcomes[0] != control.PodCIDR {
		t.Errorf("pod range %q, want %q", h.welcomes[0], control.PodCIDR)
	}
	control.Send(t, &agentv1.ToAgent{Message: &agentv1.ToAgent_PodRemove{PodRemove: &agentv1.PodRemove{Uid: "a"}}})
	control.Send(t, &agentv1.ToAgent{Message: &agentv1.ToAgent_Network{Network: &agentv1.Network{Routes: []*agentv1.NodeRoute{{Node: "n2"}}}}})
	sessiontest.Eventually(t, 5*time.Second, "a removal and a route", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return slices.Equal(h.removed, []types.UID{"a"}) && len(h.routes) == 1
	})
	sessiontest.Eventually(t, 5*time.Second, "heartbeats", func() bool { return control.Beats() > 3 })
}

// A killed control node is left at once, a silent one soon, and one that says
// that it goes away at once. Elsewhere everything is said again.
func TestSessionMovesOn(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit time.Duration
		mute  bool
		leave func(t *testing.T, c *sessiontest.Control)
	}{
		{"killed", time.Second, false, func(_ *testing.T, c *sessiontest.Control) { c.Kill() }},
		{"silent", 3500 * time.Millisecond, true, func(*testing.T, *sessiontest.Control) {}},
		{"going away", time.Second, false, func(t *testing.T, c *sessiontest.Control) {
			c.Send(t, &agentv1.ToAgent{Message: &agentv1.ToAgent_GoAway{GoAway: &agentv1.GoAway{}}})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			first, second := sessiontest.Start(t, "c1"), sessiontest.Start(t, "c2")
			first.Mute = c.mute
			first.Servers = []string{first.Address, second.Address}
			h := &handler{}
			s := run(t, h, nil, first) // the second is learned
			sessiontest.Eventually(t, 5*time.Second, "a session", first.HasSession)
			s.Status(pod("a"), &corev1.PodStatus{Phase: corev1.PodRunning})
			sessiontest.Eventually(t, 5*time.Second, "a status", func() bool { return first.Status("a").Phase == corev1.PodRunning })
			c.leave(t, first)
			began := time.Now()
			sessiontest.Eventually(t, c.limit, "a session elsewhere", second.HasSession)
			t.Logf("moved after %v", time.Since(began))
			sessiontest.Eventually(t, time.Second, "the status said again", func() bool { return second.Status("a").Phase == corev1.PodRunning })
			if address, ok := s.Server(); !ok || address != second.Address {
				t.Errorf("the session is with %q, want %q", address, second.Address)
			}
		})
	}
}

// Of many statuses of a pod only the latest matters: while one is on its way
// the others wait, and are one when it is answered.
func TestStatusesAreCoalesced(t *testing.T) {
	control := sessiontest.Start(t, "c1")
	control.Forgetful = true
	s := run(t, &handler{}, nil, control)
	sessiontest.Eventually(t, 5*time.Second, "a session", control.HasSession)
	s.Status(pod("a"), &corev1.PodStatus{Message: "0"})
	sessiontest.Eventually(t, 5*time.Second, "the first status", func() bool { return control.Status("a").Message == "0" })
	const last = 100
	for i := range last {
		s.Status(pod("a"), &corev1.PodStatus{Message: fmt.Sprint(i + 1)})
	}
	s.Status(pod("b"), &corev1.PodStatus{Message: "b"})
	sessiontest.Eventually(t, 5*time.Second, "the other pod's status", func() bool { return control.Status("b").Message == "b" })
	if got := len(control.Statuses("a")); got > 1 {
		t.Errorf("%d statuses are on their way, want 1", got)
	}
	// Unanswered, it is said again, and it is the latest that is.
	sessiontest.Eventually(t, 8*time.Second, "the latest status", func() bool { return control.Status("a").Message == fmt.Sprint(last) })
	if got := len(control.Statuses("a")); got != 2 {
		t.Errorf("%d statuses were said, want 2", got)
	}
	control.Answer("a")
	s.Forget("b")
	time.Sleep(6 * time.Second)
	if a, b := len(control.Statuses("a")), len(control.Statuses("b")); a != 2 || b > 2 {
		t.Errorf("%d and %d statuses were said, want no more of a stored one and a forgotten one", a, b)
	}
}

func TestGoneFollowsTheLastStatus(t *testing.T) {
	control := sessiontest.Start(t, "c1")
	control.Forgetful = true
	s := run(t, &handler{}, nil, control)
	said := func(message string) func() bool {
		return func() bool { return control.Status("a").Message == message }
	}
	s.Status(pod("a"), &corev1.PodStatus{Message: "0"})
	sessiontest.Eventually(t, 5*time.Second, "the first status", said("0"))
	s.Status(pod("a"), &corev1.PodStatus{Message: "19"})
	s.Gone("default", "a", "a")
	time.Sleep(200 * time.Millisecond)
	control.Answer("a")
	sessiontest.Eventually(t, 5*time.Second, "the last status", said("19"))
	time.Sleep(200 * time.Millisecond)
	if len(control.Gone()) > 0 {
		t.Error("the end was said before its last status was stored")
	}
	control.Answer("a")
	s.Event(&corev1.ObjectReference{Name: "a"}, "Normal", "Killing", "bye")
	sessiontest.Eventually(t, 5*time.Second, "word of the end", func() bool { return len(control.Gone()) == 1 })
	if got := control.Status("a").Message; got != "19" {
		t.Errorf("status %q came before the end, want the last one", got)
	}
	sessiontest.Eventually(t, 5*time.Second, "the one event", func() bool {
		return slices.Equal(control.Events(), []string{"Normal Killing bye"})
	})
}

func TestStreams(t *testing.T) {
	control := sessiontest.Start(t, "c1")
	run(t, &handler{}, nil, control)
	sessiontest.Eventually(t, 5*time.Second, "a session", control.HasSession)
	stream := control.Open(t, &agentv1.OpenStream{Id: "one"})
	for _, text := range []string{"a", "b"} {
		if err := stream.Send(&agentv1.Frame{Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
		if frame, err := stream.Recv(); err != nil || string(frame.Data) != text {
			t.Fatalf("got %v, %v; want %q back", frame, err, text)
		}
	}
	// A stream goes on though its control node says it will go away.
	control.Send(t, &agentv1.ToAgent{Message: &agentv1.ToAgent_GoAway{GoAway: &agentv1.GoAway{}}})
	time.Sleep(200 * time.Millisecond)
	if err := stream.Send(&agentv1.Frame{Close: true}); err != nil {
		t.Fatal(err)
	}
	frame, err := stream.Recv()
	if err != nil || frame.Result.GetExitCode() != 7 {
		t.Fatalf("got %v, %v; want the result", frame, err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("got %v, want the agent's end of the stream closed", err)
	}
	close(stream.Done)
}

func TestServersAreRemembered(t *testing.T) {
	file := filepath.Join(t.TempDir(), "servers.json")
	control := sessiontest.Start(t, "c1")
	control.Servers = []string{control.Address, "192.0.2.1:6443"}
	remember := func(c *session.Config) { c.File = file }
	t.Run("first", func(t *testing.T) {
		h := &handler{}
		run(t, h, remember, control)
		sessiontest.Eventually(t, 5*time.Second, "a sync", func() bool { return h.syncs() > 0 })
	})
	t.Run("later", func(t *testing.T) {
		h := &handler{}
		run(t, h, func(c *session.Config) { remember(c); c.Servers = nil; c.Patience = time.Second })
		sessiontest.Eventually(t, 10*time.Second, "a sync", func() bool { return h.syncs() > 0 })
	})
	if err := os.WriteFile(file, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := session.New(session.Config{File: file, Logger: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("no server is known, and nothing is said about it")
	}
}

// certainty remembers what it is told.
type certainty struct {
	mu      sync.Mutex
	clock   int64
	heard   int
	certain []int64
}

func (c *certainty) Clock() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clock++
	return c.clock
}

func (c *certainty) Heard() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard++
}

func (c *certainty) Certain(clock int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.certain = append(c.certain, clock)
}

func (c *certainty) counts() (heard, certain int, last int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.certain) > 0 {
		last = c.certain[len(c.certain)-1]
	}
	return c.heard, len(c.certain), last
}

// What makes an agent certain is its own clock, back from a control node that has
// a quorum; a control node without one, however alive, does not.
func TestEchoOfAQuorumMakesCertain(t *testing.T) {
	control := sessiontest.Start(t, "c1")
	c := &certainty{}
	run(t, &handler{}, func(cfg *session.Config) { cfg.Certainty = c }, control)
	sessiontest.Eventually(t, 5*time.Second, "certainty that grows", func() bool {
		_, certain, last := c.counts()
		return certain >= 2 && last > 1
	})

	minority := sessiontest.Start(t, "c2")
	minority.Minority = true
	c, h := &certainty{}, &handler{}
	run(t, h, func(cfg *session.Config) { cfg.Certainty = c }, minority)
	sessiontest.Eventually(t, 5*time.Second, "a sync", func() bool { return h.syncs() == 1 })
	time.Sleep(time.Second) // five heartbeats
	if heard, certain, _ := c.counts(); heard != 0 || certain != 0 {
		t.Errorf("heard %d times, certain %d times by a control node without a quorum, want neither", heard, certain)
	}
}
