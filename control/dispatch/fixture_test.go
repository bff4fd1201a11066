package dispatch

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/transport"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// controlNode is a Dispatcher that serves gRPC in memory. Who calls is said by
// metadata here, where on a real port a certificate says it.
type controlNode struct {
	*Dispatcher
	t        *testing.T
	store    *store.Store
	registry *resource.Registry
	log      *storetest.Log
	listener *bufconn.Listener
	// addresses are the control nodes that agents are told of.
	addresses atomic.Pointer[[]string]
	// owner is the machine that the names of all nodes belong to.
	owner atomic.Pointer[string]
	// cutOff: it has no quorum.
	cutOff atomic.Bool
}

// quietGossip hears nobody.
type quietGossip struct{}

func (quietGossip) Alive(string) bool        { return false }
func (quietGossip) Changed() <-chan struct{} { return nil }

const callerKey = "test-caller"

// newControlNodes makes control nodes that share one store and know each other.
func newControlNodes(t *testing.T, names ...string) []*controlNode {
	t.Helper()
	return newControlNodesWith(t, func(*Config) {}, names...)
}

// newControlNodesWith is newControlNodes with something else in their settings.
func newControlNodesWith(t *testing.T, change func(*Config), names ...string) []*controlNode {
	t.Helper()
	s, log, _ := storetest.Open(t)
	registry := resource.New(s, resource.AdmitAll{})
	nodes := make([]*controlNode, len(names))
	for i, name := range names {
		nodes[i] = &controlNode{t: t, store: s, registry: registry, log: log, listener: bufconn.Listen(1 << 20)}
		nodes[i].addresses.Store(&[]string{"10.0.0.1:6443"})
		nodes[i].owner.Store(new(string))
		cfg := Config{
			Name: name, Store: s, Registry: registry,
			Servers: func() []string { return *nodes[i].addresses.Load() },
			Peers: func() (peers []Peer) {
				for _, other := range names {
					if other != name {
						peers = append(peers, Peer{Name: other})
					}
				}
				return peers
			},
			Dial: func(_ context.Context, peer, _ string) (grpc.ClientConnInterface, error) {
				for j, other := range names {
					if other == peer {
						return nodes[j].dial("muster:server:" + name), nil
					}
				}
				return nil, errors.New("no such control node")
			},
			Quorum: func() bool { return !nodes[i].cutOff.Load() },
			Owns: func(_ string, key [sha256.Size]byte) bool {
				return key == sha256.Sum256([]byte(*nodes[i].owner.Load()))
			},
			Tokens: signedTokens{}, Gossip: quietGossip{}, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		}
		change(&cfg)
		nodes[i].Dispatcher = New(cfg)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group errgroup.Group
	for _, n := range nodes {
		server := grpc.NewServer(grpc.WaitForHandlers(true), grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return handler(transport.NewContext(ctx, callerOf(ctx)), request)
		}), grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return handler(srv, &asCaller{stream, transport.NewContext(stream.Context(), callerOf(stream.Context()))})
		}))
		n.Register(server)
		group.Go(func() error { return n.Run(ctx) })
		group.Go(func() error { return server.Serve(n.listener) })
		group.Go(func() error { <-ctx.Done(); server.Stop(); return nil })
	}
	t.Cleanup(func() {
		cancel()
		if err := group.Wait(); err != nil {
			t.Errorf("dispatcher ended with %v", err)
		}
	})
	return nodes
}

// callerOf is who the metadata of a call say calls: NODE/MACHINE.
func callerOf(ctx context.Context) transport.Caller {
	node, machine, _ := strings.Cut(metadata.ValueFromIncomingContext(ctx, callerKey)[0], "/")
	return transport.Caller{Role: identity.Agent, Name: node, Certificate: &x509.Certificate{RawSubjectPublicKeyInfo: []byte(machine)}}
}

type asCaller struct {
	grpc.ServerStream
	ctx context.Context
}

func (a *asCaller) Context() context.Context { return a.ctx }

func (n *controlNode) dial(caller string) *grpc.ClientConn {
	n.t.Helper()
	conn, err := grpc.NewClient("passthrough:///control", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return n.listener.DialContext(ctx) }),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, request, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoke(metadata.AppendToOutgoingContext(ctx, callerKey, caller), method, request, reply, cc, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return streamer(metadata.AppendToOutgoingContext(ctx, callerKey, caller), desc, cc, method, opts...)
		}))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return conn
}

// testAgent is the other end of a session.
type testAgent struct {
	t       *testing.T
	name    string
	conn    *grpc.ClientConn
	session grpc.BidiStreamingClient[agentv1.FromAgent, agentv1.ToAgent]
}

func (n *controlNode) connect(name string) *testAgent {
	n.t.Helper()
	return n.connectAs(name, "")
}

// connectWithDatagrams is connect by an agent that can send datagrams.
func (n *controlNode) connectWithDatagrams(name string) *testAgent {
	n.t.Helper()
	return n.hello(name, "", true)
}

// connectAs is connect by a certain one of the machines that have the name in
// their certificates.
func (n *controlNode) connectAs(name, machine string) *testAgent {
	n.t.Helper()
	return n.hello(name, machine, false)
}

func (n *controlNode) hello(name, machine string, datagrams bool) *testAgent {
	n.t.Helper()
	a := &testAgent{t: n.t, name: name, conn: n.dial(name + "/" + machine)}
	var err error
	if a.session, err = agentv1.NewAgentClient(a.conn).Session(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.1." + name[1:]}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}},
		},
	}
	raw, err := node.Marshal()
	if err != nil {
		n.t.Fatal(err)
	}
	a.say(&agentv1.FromAgent{Message: &agentv1.FromAgent_Hello{Hello: &agentv1.Hello{Node: raw, Version: "v1", Volumes: "/volumes", Datagrams: datagrams}}})
	return a
}

func (a *testAgent) say(message *agentv1.FromAgent) {
	a.t.Helper()
	if err := a.session.Send(message); err != nil {
		a.t.Fatal(err)
	}
}

// keepBeating sends heartbeats until the session ends.
func (a *testAgent) keepBeating() {
	go func() {
		for {
			if a.session.Send(&agentv1.FromAgent{Message: &agentv1.FromAgent_Heartbeat{}}) != nil {
				return
			}
			select {
			case <-a.session.Context().Done():
				return
			case <-time.After(HeartbeatInterval):
			}
		}
	}()
}

// hear returns the next message that is no heartbeat.
func (a *testAgent) hear() *agentv1.ToAgent {
	a.t.Helper()
	for {
		message, err := a.session.Recv()
		if err != nil {
			a.t.Fatalf("%s: session ended: %v", a.name, err)
		}
		if message.GetHeartbeat() == nil && message.GetNetwork() == nil && message.GetContent().GetKind() != agentv1.Content_SERVICES {
			return message
		}
	}
}

// hearServices returns the next word of services, in which order they come:
// "default/: a=10.0.0.1:80".
func (a *testAgent) hearServices() string {
	a.t.Helper()
	for {
		message, err := a.session.Recv()
		if err != nil {
			a.t.Fatalf("%s: session ended: %v", a.name, err)
		}
		content := message.GetContent()
		if content.GetKind() != agentv1.Content_SERVICES {
			continue
		}
		word := content.Namespace + "/" + content.Name + ":"
		if content.Dropped {
			return word + " dropped"
		}
		var list corev1.ServiceList
		if err := list.Unmarshal(content.Object); err != nil {
			a.t.Fatal(err)
		}
		for _, s := range list.Items {
			word += fmt.Sprintf(" %s=%s:%d", s.Name, s.Spec.ClusterIP, s.Spec.Ports[0].Port)
		}
		return word
	}
}

// hearUntilSynced returns the names of the pods of the initial set.
func (a *testAgent) hearUntilSynced() (pods []string) {
	a.t.Helper()
	for {
		message := a.hear()
		switch {
		case message.GetSynced() != nil:
			return pods
		case message.GetPodPut() != nil:
			pods = append(pods, a.pod(message).Name)
		}
	}
}

func (a *testAgent) pod(message *agentv1.ToAgent) *corev1.Pod {
	a.t.Helper()
	pod := &corev1.Pod{}
	if err := pod.Unmarshal(message.GetPodPut().GetPod()); err != nil {
		a.t.Fatal(err)
	}
	return pod
}

// givePodCIDR does what the leader's controller does.
func (n *controlNode) givePodCIDR(name string) {
	n.t.Helper()
	nodes := store.Of[*corev1.Node](n.store, store.Nodes)
	eventually(n.t, func() bool {
		node, err := nodes.Get(n.t.Context(), "", name)
		if err != nil {
			return false
		}
		node.Spec.PodCIDR = "10.42.1.0/24"
		_, err = nodes.Update(n.t.Context(), node, 0)
		return err == nil
	})
}

func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("did not happen within 20 s")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (n *controlNode) createPod(name, node string) *corev1.Pod {
	n.t.Helper()
	pod, err := store.Of[*corev1.Pod](n.store, store.Pods).Create(n.t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "uid-" + "1"},
		Spec: corev1.PodSpec{
			NodeName: node, RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst,
			TerminationGracePeriodSeconds: ptr.To[int64](30),
			Containers:                    []corev1.Container{{Name: "c", Image: "i", ImagePullPolicy: corev1.PullAlways, TerminationMessagePath: "/dev/t", TerminationMessagePolicy: "File"}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return pod
}
