// Package sessiontest is a control node as an agent sees it, for tests: it says
// which pods there should be and remembers what it is told.
package sessiontest

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// Control is a control node.
type Control struct {
	agentv1.UnimplementedAgentServer
	Name    string
	Address string
	// PodCIDR is what nodes are given; Servers, what they are told.
	PodCIDR string
	Servers []string
	// Mute: nothing is said after the welcome, not even heartbeats.
	Mute bool
	// Minority: it has no quorum.
	Minority bool
	// Forgetful: statuses are not answered.
	Forgetful bool

	server *grpc.Server
	end    func()

	mu  sync.Mutex
	out chan *agentv1.ToAgent // to the agent; nil without a session

	datagrams *Datagrams // nil: it hears none
	Pods      map[types.UID]*corev1.Pod
	hellos    []*corev1.Node
	statuses  map[types.UID][]*corev1.PodStatus
	sequence  map[types.UID]uint64
	gone      []types.UID
	events    []string
	beats     int
	clock     int64 // what the agent's last one said
	streams   map[string]chan Stream
}

// Stream is what an agent opened because it was asked to.
type Stream struct {
	grpc.BidiStreamingServer[agentv1.Frame, agentv1.Frame]
	Done chan struct{} // close it to end the stream
}

// Start listens on a free port of the loopback until the test ends.
func Start(t testing.TB, name string) *Control {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Control{
		Name: name, Address: listener.Addr().String(), PodCIDR: "10.77.1.0/24", server: grpc.NewServer(),
		Pods: map[types.UID]*corev1.Pod{}, statuses: map[types.UID][]*corev1.PodStatus{}, sequence: map[types.UID]uint64{}, streams: map[string]chan Stream{},
	}
	agentv1.RegisterAgentServer(c.server, c)
	served := make(chan struct{})
	go func() { defer close(served); _ = c.server.Serve(listener) }()
	c.end = sync.OnceFunc(func() { c.server.Stop(); <-served })
	t.Cleanup(c.end)
	return c
}

// Kill ends it as a killed process does.
func (c *Control) Kill() { c.end() }

// Dial is how an agent reaches it.
func Dial(_ context.Context, address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// Session serves agent.v1.Agent.
func (c *Control) Session(stream grpc.BidiStreamingServer[agentv1.FromAgent, agentv1.ToAgent]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	node := &corev1.Node{}
	if err := node.Unmarshal(first.GetHello().GetNode()); err != nil {
		return err
	}
	out := make(chan *agentv1.ToAgent, 1000)
	c.mu.Lock()
	c.hellos = append(c.hellos, node)
	node = node.DeepCopy()
	node.Spec.PodCIDR = c.PodCIDR
	raw, err := node.Marshal()
	if err != nil {
		return err
	}
	if c.datagrams != nil {
		out <- &agentv1.ToAgent{Message: &agentv1.ToAgent_Beats{Beats: c.datagrams.beats}}
	}
	out <- &agentv1.ToAgent{Message: &agentv1.ToAgent_Welcome{Welcome: &agentv1.Welcome{ControlNode: c.Name, Node: raw, Servers: c.Servers, Echoes: true}}}
	for _, pod := range c.Pods {
		out <- put(pod)
	}
	out <- &agentv1.ToAgent{Message: &agentv1.ToAgent_Synced{Synced: &agentv1.Synced{}}}
	c.out = out
	mute := c.Mute
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.out == out {
			c.out = nil
		}
	}()
	received := make(chan error, 1)
	go func() { received <- c.receive(stream, out) }()
	beat := time.NewTicker(200 * time.Millisecond)
	defer beat.Stop()
	for {
		var message *agentv1.ToAgent
		select {
		case err := <-received:
			return err
		case message = <-out:
		case <-beat.C:
			if mute {
				continue
			}
			c.mu.Lock()
			message = &agentv1.ToAgent{Message: &agentv1.ToAgent_Heartbeat{Heartbeat: &agentv1.Heartbeat{Clock: c.clock, Quorum: !c.Minority}}}
			c.mu.Unlock()
		}
		if err := stream.Send(message); err != nil {
			return err
		}
	}
}

func put(pod *corev1.Pod) *agentv1.ToAgent {
	raw, err := pod.Marshal()
	if err != nil {
		panic(err)
	}
	return &agentv1.ToAgent{Message: &agentv1.ToAgent_PodPut{PodPut: &agentv1.PodPut{Pod: raw}}}
}

func (c *Control) receive(stream grpc.BidiStreamingServer[agentv1.FromAgent, agentv1.ToAgent], out chan<- *agentv1.ToAgent) error {
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		c.mu.Lock()
		switch m := message.Message.(type) {
		case *agentv1.FromAgent_Heartbeat:
			c.beats++
			c.clock = m.Heartbeat.Clock
		case *agentv1.FromAgent_PodStatus:
			status := &corev1.PodStatus{}
			if err := status.Unmarshal(m.PodStatus.Status); err != nil {
				c.mu.Unlock()
				return err
			}
			uid := types.UID(m.PodStatus.Uid)
			c.statuses[uid] = append(c.statuses[uid], status)
			c.sequence[uid] = m.PodStatus.Sequence
			if !c.Forgetful {
				out <- c.answer(uid)
			}
		case *agentv1.FromAgent_PodGone:
			uid := types.UID(m.PodGone.Uid)
			c.gone = append(c.gone, uid)
			if pod := c.Pods[uid]; pod != nil && pod.DeletionTimestamp != nil {
				delete(c.Pods, uid)
				out <- &agentv1.ToAgent{Message: &agentv1.ToAgent_PodRemove{PodRemove: &agentv1.PodRemove{Namespace: m.PodGone.Namespace, Name: m.PodGone.Name, Uid: m.PodGone.Uid}}}
			}
		case *agentv1.FromAgent_Event:
			c.events = append(c.events, m.Event.Type+" "+m.Event.Reason+" "+m.Event.Message)
		case *agentv1.FromAgent_NodeStatus:
			status := corev1.NodeStatus{}
			if err := status.Unmarshal(m.NodeStatus.Status); err == nil && len(c.hellos) > 0 {
				c.hellos[len(c.hellos)-1].Status = status
			}
		}
		c.mu.Unlock()
	}
}

func (c *Control) answer(uid types.UID) *agentv1.ToAgent {
	return &agentv1.ToAgent{Message: &agentv1.ToAgent_StatusStored{StatusStored: &agentv1.StatusStored{Uid: string(uid), Sequence: c.sequence[uid]}}}
}

// Answer says that the last status of a pod was stored.
func (c *Control) Answer(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out <- c.answer(uid)
}

// Stream serves agent.v1.Agent: it hands the stream to who asked for it.
func (c *Control) Stream(stream grpc.BidiStreamingServer[agentv1.Frame, agentv1.Frame]) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	ids := md.Get("muster-stream")
	if len(ids) != 1 {
		return errors.New("a stream without its id")
	}
	c.mu.Lock()
	waiting := c.streams[ids[0]]
	c.mu.Unlock()
	if waiting == nil {
		return errors.New("a stream nobody asked for")
	}
	s := Stream{stream, make(chan struct{})}
	waiting <- s
	select {
	case <-s.Done:
	case <-stream.Context().Done():
	}
	return nil
}

// Open asks the agent for a stream.
func (c *Control) Open(t testing.TB, request *agentv1.OpenStream) Stream {
	t.Helper()
	waiting := make(chan Stream, 1)
	c.mu.Lock()
	c.streams[request.Id] = waiting
	c.mu.Unlock()
	c.Send(t, &agentv1.ToAgent{Message: &agentv1.ToAgent_OpenStream{OpenStream: request}})
	select {
	case s := <-waiting:
		return s
	case <-time.After(10 * time.Second):
		t.Fatal("the agent opened no stream")
		return Stream{}
	}
}

// Send says something to the agent.
func (c *Control) Send(t testing.TB, message *agentv1.ToAgent) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out == nil {
		t.Fatal("there is no session")
	}
	c.out <- message
}

// Put says how a pod should be, now and in later sessions.
func (c *Control) Put(pod *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Pods[pod.UID] = pod
	if c.out != nil {
		c.out <- put(pod)
	}
}

// Delete says that a pod is to end.
func (c *Control) Delete(pod *corev1.Pod, grace int64) {
	pod = pod.DeepCopy()
	now := time.Now()
	pod.DeletionTimestamp = &metav1.Time{Time: now}
	pod.DeletionGracePeriodSeconds = &grace
	c.Put(pod)
}

// HasSession says whether there is one.
func (c *Control) HasSession() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out != nil
}

// Nodes are those that said hello, in order, with their latest status.
func (c *Control) Nodes() []*corev1.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	var nodes []*corev1.Node
	for _, n := range c.hellos {
		nodes = append(nodes, n.DeepCopy())
	}
	return nodes
}

// Statuses are all that were said of a pod.
func (c *Control) Statuses(uid types.UID) []*corev1.PodStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.statuses[uid])
}

// Status is what was said last of a pod.
func (c *Control) Status(uid types.UID) *corev1.PodStatus {
	all := c.Statuses(uid)
	if len(all) == 0 {
		return &corev1.PodStatus{}
	}
	return all[len(all)-1]
}

// Gone are the pods that were said to be gone.
func (c *Control) Gone() []types.UID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.gone)
}

// Events are those that were asked for.
func (c *Control) Events() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

// Beats is how many heartbeats came.
func (c *Control) Beats() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.beats
}

// Eventually waits for something to become true.
func Eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
