package dispatch

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/proto/agent/fencing"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// An agent stops whatever is not in the initial set, so the set must be whole
// and its own.
func TestSessionSendsTheNodesPodsThenChanges(t *testing.T) {
	c := newControlNodes(t, "c1")[0]
	c.createPod("mine", "n1")
	c.createPod("other", "n2")
	a := c.connect("n1")
	c.givePodCIDR("n1")
	if pods := a.hearUntilSynced(); len(pods) != 1 || pods[0] != "mine" {
		t.Fatalf("initial pods %q, want mine only", pods)
	}
	c.createPod("later", "n1")
	if got := a.pod(a.hear()); got.Name != "later" || got.ResourceVersion == "" {
		t.Errorf("got pod %q at version %q, want later with its version", got.Name, got.ResourceVersion)
	}
	if _, err := store.Of[*corev1.Pod](c.store, store.Pods).Delete(t.Context(), "default", "mine", 0, ""); err != nil {
		t.Fatal(err)
	}
	if got := a.hear().GetPodRemove(); got.GetName() != "mine" || got.GetUid() != "uid-1" {
		t.Errorf("got removal %v, want mine with its uid", got)
	}
}

// An agent that joined through the first control node must find the others
// when that one dies.
func TestAgentIsToldOfNewControlNodes(t *testing.T) {
	c := newControlNodes(t, "c1")[0]
	a := c.connect("n1")
	c.givePodCIDR("n1")
	a.hearUntilSynced()
	a.keepBeating()
	c.addresses.Store(&[]string{"10.0.0.1:6443", "10.0.0.2:6443"})
	for {
		message, err := a.session.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := message.GetServers().GetServers(); len(got) == 2 {
			return
		}
	}
}

// A replica that lags does not know that a pod was bound; told to stop what is
// not in the set, the agent would kill it. Without a barrier there is no set.
func TestSessionSendsNoPodsWithoutAQuorum(t *testing.T) {
	c := newControlNodes(t, "c1")[0]
	a := c.connect("n1")
	c.givePodCIDR("n1")
	a.hearUntilSynced()
	c.log.Refuse(errors.New("no leader"))
	again := c.connect("n1")
	again.keepBeating()
	heartbeats := 0
	for heartbeats < 2 {
		message, err := again.session.Recv()
		if err != nil {
			t.Fatalf("the session ended: %v; want it to wait", err)
		}
		if message.GetHeartbeat() == nil {
			t.Fatalf("got %v without a quorum, want heartbeats only", message)
		}
		heartbeats++
	}
	c.log.Refuse(nil)
	again.hearUntilSynced()
}

// The Node was deleted, another machine joined under its name, and the first one
// is back with a certificate that is still good. If both were told of the pods,
// both would run them.
func TestReplacedMachineIsNotHeard(t *testing.T) {
	c := newControlNodes(t, "c1")[0]
	first := c.connect("n1")
	c.givePodCIDR("n1")
	first.hearUntilSynced()
	first.keepBeating()
	owner := "second"
	c.owner.Store(&owner)
	refused := func(a *testAgent, what string) {
		t.Helper()
		for {
			message, err := a.session.Recv()
			if err != nil {
				if !strings.Contains(err.Error(), "another machine") {
					t.Errorf("%s: session ended with %v, want that the name is another machine's", what, err)
				}
				return
			}
			if message.GetHeartbeat() == nil && message.GetNetwork() == nil {
				t.Fatalf("%s: heard %v, want to be sent away", what, message)
			}
		}
	}
	refused(first, "a session that was open when the name was taken")
	second := c.connectAs("n1", "second")
	second.hearUntilSynced()
	second.keepBeating()
	refused(c.connect("n1"), "a new session")
	c.createPod("p", "n1")
	if got := second.pod(second.hear()); got.Name != "p" {
		t.Errorf("got pod %q, want p: the machine that has the name is still heard", got.Name)
	}
}

func TestStatusIsStoredForTheNodesOwnPodsOnly(t *testing.T) {
	c := newControlNodes(t, "c1")[0]
	c.createPod("mine", "n1")
	c.createPod("other", "n2")
	a := c.connect("n1")
	c.givePodCIDR("n1")
	a.hearUntilSynced()
	status, err := (&corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.42.1.2", PodIPs: []corev1.PodIP{{IP: "10.42.1.2"}}}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"other", "mine"} {
		uid := "uid-1"
		if name == "other" {
			uid = "uid-1-of-another"
		}
		a.say(&agentv1.FromAgent{Message: &agentv1.FromAgent_PodStatus{PodStatus: &agentv1.PodStatus{
			Namespace: "default", Name: name, Uid: uid, Status: status, Sequence: 7,
		}}})
	}
	for stored := map[string]bool{}; !stored["uid-1"]; {
		if s := a.hear().GetStatusStored(); s != nil && s.Sequence == 7 {
			stored[s.Uid] = true
		}
	}
	pods := store.Of[*corev1.Pod](c.store, store.Pods)
	for name, want := range map[string]corev1.PodPhase{"mine": corev1.PodRunning, "other": corev1.PodPending} {
		pod, err := pods.Get(t.Context(), "default", name)
		if err != nil || pod.Status.Phase != want {
			t.Errorf("pod %s: phase %q (%v), want %q", name, pod.Status.Phase, err, want)
		}
	}
}

// The object of a deleted pod goes when its containers have: not before, and
// never because an agent says so of a pod that nobody deleted.
func TestDeletedPodIsRemovedOnceItIsGone(t *testing.T) {
	c := newControlNodes(t, "c1")[0]
	c.createPod("p", "n1")
	a := c.connect("n1")
	c.givePodCIDR("n1")
	a.hearUntilSynced()
	gone := &agentv1.FromAgent{Message: &agentv1.FromAgent_PodGone{PodGone: &agentv1.PodGone{Namespace: "default", Name: "p", Uid: "uid-1"}}}
	a.say(gone)
	for sequence := range uint64(2) { // what was said before the first was looked at when the second is stored
		a.say(&agentv1.FromAgent{Message: &agentv1.FromAgent_PodStatus{PodStatus: &agentv1.PodStatus{
			Namespace: "default", Name: "p", Uid: "uid-1", Sequence: sequence + 1,
		}}})
		for stored := false; !stored; {
			stored = a.hear().GetStatusStored().GetSequence() == sequence+1
		}
	}
	kind := c.registry.Kind(store.Pods.Resource)
	if _, removed, err := c.registry.Delete(t.Context(), kind, "default", "p", &metav1.DeleteOptions{}); err != nil || removed {
		t.Fatalf("delete: removed %v, %v; want it to wait for the agent", removed, err)
	}
	told := a.hear()
	for told.GetPodPut() == nil { // of the network, for instance
		told = a.hear()
	}
	if pod := a.pod(told); pod.DeletionTimestamp == nil {
		t.Fatal("the agent was not told that the pod is being deleted")
	}
	a.say(gone)
	if got := a.hear().GetPodRemove(); got.GetName() != "p" {
		t.Errorf("got %v, want the removal of p", got)
	}
}

func TestEventsSaidAgainCountUp(t *testing.T) {
	c := newControlNodes(t, "c1")[0]
	a := c.connect("n1")
	c.givePodCIDR("n1")
	a.hearUntilSynced()
	if _, err := store.Of[*corev1.Namespace](c.store, store.Namespaces).Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}); err != nil {
		t.Fatal(err)
	}
	regarding, err := (&corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p", UID: "u"}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		a.say(&agentv1.FromAgent{Message: &agentv1.FromAgent_Event{Event: &agentv1.EventReport{
			Regarding: regarding, Type: "Warning", Reason: "BackOff", Message: "Back-off restarting failed container",
		}}})
	}
	events := store.Of[*corev1.Event](c.store, store.Events)
	eventually(t, func() bool {
		list, _, err := events.List(t.Context(), store.ListOptions{})
		return err == nil && len(list) == 1 && list[0].Count == 3 && list[0].Source.Host == "n1"
	})
}

// An agent of a control node that is cut off looks silent to the leader, and its
// healthy pods would be replaced.
func TestControlNodeWithoutAQuorumSendsItsAgentsAway(t *testing.T) {
	c := newControlNodes(t, "c1")[0]
	a := c.connect("n1")
	c.givePodCIDR("n1")
	a.hearUntilSynced()
	a.keepBeating()
	c.cutOff.Store(true)
	if message := a.hear(); message.GetGoAway() == nil {
		t.Errorf("got %v, want to be sent away", message)
	}
}

// The leader's word that a node is lost may land just after its agent's that it
// is there. Nobody would correct it: the agent has said what it had to say.
func TestNodeCalledLostDuringASessionIsReportedAnew(t *testing.T) {
	c := newControlNodes(t, "c1")[0]
	a := c.connect("n1")
	c.givePodCIDR("n1")
	a.hearUntilSynced()
	nodes := store.Of[*corev1.Node](c.store, store.Nodes)
	node, err := nodes.Get(t.Context(), "", "n1")
	if err != nil {
		t.Fatal(err)
	}
	node = node.DeepCopy()
	node.Status.Conditions[0].Status = corev1.ConditionUnknown
	if _, err := nodes.Update(t.Context(), node, 0); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := a.session.Recv(); err != nil {
			break // told to start over
		}
	}
	c.connect("n1").hearUntilSynced()
	if node, err = nodes.Get(t.Context(), "", "n1"); err != nil || node.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("after the new session: %v, %v, want Ready", node.Status.Conditions, err)
	}
}

func TestNewerSessionReplacesTheOlder(t *testing.T) {
	c := newControlNodes(t, "c1")[0]
	old := c.connect("n1")
	c.givePodCIDR("n1")
	old.hearUntilSynced()
	c.connect("n1").hearUntilSynced()
	for {
		if _, err := old.session.Recv(); err != nil {
			return
		}
	}
}

// echo answers a stream as an agent that sends back what it gets would.
func (a *testAgent) echo(id string) {
	a.t.Helper()
	stream, err := agentv1.NewAgentClient(a.conn).Stream(metadata.AppendToOutgoingContext(a.t.Context(), streamKey, id))
	if err != nil {
		a.t.Error(err)
		return
	}
	for {
		frame, err := stream.Recv()
		if err != nil {
			return
		}
		if frame.Close {
			_ = stream.Send(&agentv1.Frame{Result: &agentv1.StreamResult{ExitCode: 3}})
			_ = stream.CloseSend()
			return
		}
		_ = stream.Send(&agentv1.Frame{Channel: agentv1.Frame_STDOUT, Data: frame.Data})
	}
}

// The client's control node need not be the one that the agent speaks to.
func TestStreamReachesTheAgentFromEveryControlNode(t *testing.T) {
	nodes := newControlNodes(t, "c1", "c2")
	a := nodes[1].connect("n1")
	nodes[1].givePodCIDR("n1")
	a.hearUntilSynced()
	for _, from := range nodes {
		ctx, cancel := context.WithCancel(t.Context())
		opened := make(chan Stream, 1)
		go func() {
			stream, err := from.Open(ctx, "n1", &agentv1.OpenStream{Request: &agentv1.OpenStream_Exec{Exec: &agentv1.ExecRequest{Pod: "p"}}})
			if err != nil {
				t.Error(err)
			}
			opened <- stream
		}()
		request := a.hear().GetOpenStream()
		if request.GetExec().GetPod() != "p" {
			t.Fatalf("through %s the agent was asked %v, want an exec in p", from.cfg.Name, request)
		}
		go a.echo(request.Id)
		stream := <-opened
		if err := stream.Send(&agentv1.Frame{Data: []byte("hello")}); err != nil {
			t.Fatal(err)
		}
		if frame, err := stream.Recv(); err != nil || string(frame.Data) != "hello" {
			t.Fatalf("through %s came %v, %v, want hello", from.cfg.Name, frame, err)
		}
		if err := stream.Send(&agentv1.Frame{Close: true}); err != nil {
			t.Fatal(err)
		}
		if frame, err := stream.Recv(); err != nil || frame.GetResult().GetExitCode() != 3 {
			t.Fatalf("through %s came %v, %v, want exit code 3", from.cfg.Name, frame, err)
		}
		cancel()
	}
	if _, err := nodes[0].Open(t.Context(), "n9", &agentv1.OpenStream{}); !errors.Is(err, ErrNoSession) {
		t.Errorf("a stream to an unknown node: %v, want ErrNoSession", err)
	}
}

// A new leader must know of every agent before it calls any absent, whichever
// control node the agents speak to.
func TestPresenceHearsAllControlNodes(t *testing.T) {
	nodes := newControlNodes(t, "c1", "c2")
	a := nodes[1].connect("n1")
	nodes[1].givePodCIDR("n1")
	a.hearUntilSynced()
	ctx, cancel := context.WithCancel(t.Context())
	presence := nodes[0].NewPresence()
	done := make(chan error, 1)
	go func() { done <- presence.Run(ctx) }()
	eventually(t, func() bool { session, _ := presence.Alive("n1"); return session && presence.Ready() })
	if err := a.session.CloseSend(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { session, _ := presence.Alive("n1"); return !session })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// When the power fails no connection breaks. That the agent has said nothing for
// seconds is told, so that nobody waits for that again.
func TestPresenceKnowsHowLongAnAgentWasSilent(t *testing.T) {
	nodes := newControlNodes(t, "c1", "c2")
	ctx, cancel := context.WithCancel(t.Context())
	presence := nodes[0].NewPresence()
	done := make(chan error, 1)
	go func() { done <- presence.Run(ctx) }()
	for i, name := range []string{"n1", "n2"} { // on the leader, and on another
		nodes[i].connect(name)
		nodes[i].givePodCIDR(name)
		eventually(t, func() bool { session, _ := presence.Alive(name); return session })
	}
	for _, name := range []string{"n1", "n2"} {
		eventually(t, func() bool { session, _ := presence.Alive(name); return !session })
		if got := presence.SilentFor(name); got < silence {
			t.Errorf("%s was silent for %v, want at least %v", name, got, silence)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestMergeNodeStatusKeepsTimesOfWhatDidNotChange(t *testing.T) {
	then, now := metav1.NewTime(time.Unix(1000, 0)), metav1.NewTime(time.Unix(2000, 0))
	ready := func(status corev1.ConditionStatus, reason string, at metav1.Time) corev1.NodeCondition {
		return corev1.NodeCondition{Type: corev1.NodeReady, Status: status, Reason: reason, LastHeartbeatTime: at, LastTransitionTime: at}
	}
	network := corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, LastTransitionTime: then}
	for _, test := range []struct {
		name           string
		stored, said   corev1.NodeCondition
		wantTransition metav1.Time
		wantHeartbeat  metav1.Time
	}{
		{"same", ready("True", "KubeletReady", then), ready("True", "KubeletReady", now), then, then},
		{"other reason", ready("True", "KubeletReady", then), ready("True", "Other", now), then, now},
		{"other status", ready("Unknown", "NodeStatusUnknown", then), ready("True", "KubeletReady", now), now, now},
	} {
		got := mergeNodeStatus(
			&corev1.NodeStatus{Conditions: []corev1.NodeCondition{test.stored, network}},
			&corev1.NodeStatus{Conditions: []corev1.NodeCondition{test.said}})
		if len(got.Conditions) != 2 || got.Conditions[1] != network {
			t.Fatalf("%s: conditions %v, want the unnamed one kept", test.name, got.Conditions)
		}
		if c := got.Conditions[0]; !c.LastTransitionTime.Equal(&test.wantTransition) || !c.LastHeartbeatTime.Equal(&test.wantHeartbeat) {
			t.Errorf("%s: times %v %v, want %v %v", test.name, c.LastTransitionTime, c.LastHeartbeatTime, test.wantTransition, test.wantHeartbeat)
		}
	}
}

var _ clusterv1.SessionsServer = (*Dispatcher)(nil)

// An agent is certain of the control plane by its own clock, which comes back to
// it from a control node that has a quorum, as soon as it has one.
func TestHeartbeatsEchoTheAgentsClock(t *testing.T) {
	c := newControlNodes(t, "c1")[0]
	a := c.connect("n1")
	c.givePodCIDR("n1")
	a.hearUntilSynced()
	hear := func(clock int64) *agentv1.Heartbeat {
		t.Helper()
		for {
			message, err := a.session.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if beat := message.GetHeartbeat(); beat != nil && beat.Clock == clock {
				return beat
			}
		}
	}
	echo := func(clock int64) *agentv1.Heartbeat {
		t.Helper()
		if err := a.session.Send(&agentv1.FromAgent{Message: &agentv1.FromAgent_Heartbeat{Heartbeat: &agentv1.Heartbeat{Clock: clock}}}); err != nil {
			t.Fatal(err)
		}
		return hear(clock)
	}
	for _, cutOff := range []bool{false, true} {
		c.cutOff.Store(cutOff)
		if beat := echo(map[bool]int64{false: 41, true: 42}[cutOff]); beat.Quorum == cutOff {
			t.Errorf("cut off %v, and the heartbeat says quorum %v", cutOff, beat.Quorum)
		}
	}
	c.cutOff.Store(false)
	if beat := hear(42); !beat.Quorum {
		t.Error("the last heartbeat is not answered again with a quorum")
	}
}

// What an agent promises about pods that must not run twice is its to change.
func TestPromiseFollowsTheAgent(t *testing.T) {
	c := newControlNodes(t, "c1")[0]
	a := c.connect("n2")
	c.givePodCIDR("n2")
	a.hearUntilSynced()
	for _, promise := range []string{"15s", "30s", ""} {
		said := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
		if promise != "" {
			said.Annotations = map[string]string{fencing.NodeAnnotation: promise}
		}
		if err := c.register(t.Context(), said); err != nil {
			t.Fatal(err)
		}
		node, err := store.Of[*corev1.Node](c.store, store.Nodes).Get(t.Context(), "", "n1")
		if err != nil {
			t.Fatal(err)
		}
		if got := node.Annotations[fencing.NodeAnnotation]; got != promise {
			t.Errorf("promise %q is stored as %q", promise, got)
		}
	}
}
