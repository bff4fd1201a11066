package reach_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/musterhq/muster/control/reach"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// agents answer each stream with what was asked of them, then echo.
type agents struct{ refuse error }

type echo struct {
	ctx    context.Context
	frames chan *agentv1.Frame
}

func (a agents) Open(ctx context.Context, node string, request *agentv1.OpenStream) (reach.Stream, error) {
	if a.refuse != nil {
		return nil, a.refuse
	}
	e := &echo{ctx, make(chan *agentv1.Frame, 64)}
	r := request.GetPortForward()
	e.frames <- &agentv1.Frame{Channel: agentv1.Frame_STDOUT, Data: fmt.Appendf(nil, "%s:%s:%d:%t\n", node, r.Pod, r.Port, r.ToAddress)}
	return e, nil
}

func (e *echo) Send(frame *agentv1.Frame) error {
	if frame.Close {
		frame = &agentv1.Frame{Result: &agentv1.StreamResult{}}
	}
	select {
	case e.frames <- frame:
		return nil
	case <-e.ctx.Done():
		return e.ctx.Err()
	}
}

func (e *echo) CloseSend() error { return nil }

func (e *echo) Recv() (*agentv1.Frame, error) {
	select {
	case frame := <-e.frames:
		return frame, nil
	case <-e.ctx.Done():
		return nil, e.ctx.Err()
	}
}

func pod(name, node, ip string, ready corev1.ConditionStatus) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{
			Name: "c", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
		}}},
		Status: corev1.PodStatus{PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}},
	}
}

func service(name string, adjust func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Name: "www", Port: 80, TargetPort: intstr.FromString("http")}},
		},
	}
	if adjust != nil {
		adjust(s)
	}
	return s
}

func create[T store.Object](t *testing.T, s *store.Store, spec *store.Spec, obj T) {
	t.Helper()
	if _, err := store.Of[T](s, spec).Create(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
}

func TestServiceLeadsToAReadyPod(t *testing.T) {
	s := storetest.New(t)
	create(t, s, store.Pods, pod("ready", "n1", "10.0.0.1", corev1.ConditionTrue))
	create(t, s, store.Pods, pod("unready", "n2", "10.0.0.2", corev1.ConditionFalse))
	create(t, s, store.Pods, pod("nowhere", "", "", corev1.ConditionTrue))
	create(t, s, store.Services, service("web", nil))
	d := reach.New(s, agents{})
	for range 20 {
		conn, err := d.Service(t.Context(), "ns", "web", 80)
		if err != nil {
			t.Fatal(err)
		}
		line := make([]byte, 64)
		n, err := conn.Read(line)
		if got, want := string(line[:n]), "n1:ready:8080:true\n"; got != want || err != nil {
			t.Errorf("connected with %q, %v, want %q", got, err, want)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestSlicesSayWhereAServiceIs(t *testing.T) {
	s := storetest.New(t)
	create(t, s, store.Pods, pod("a", "n1", "10.0.0.1", corev1.ConditionTrue))
	create(t, s, store.Pods, pod("b", "n2", "10.0.0.2", corev1.ConditionTrue))
	create(t, s, store.Services, service("web", nil))
	yes, no, port, name := true, false, int32(9090), "www"
	ref := func(pod string) *corev1.ObjectReference {
		return &corev1.ObjectReference{Kind: "Pod", Namespace: "ns", Name: pod}
	}
	create(t, s, store.EndpointSlices, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		Ports:      []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}, TargetRef: ref("a")},
			{Addresses: []string{"10.0.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: &yes}, TargetRef: ref("b")},
			// Whoever may write slices must not lead others to a pod that is
			// elsewhere than they say.
			{Addresses: []string{"10.0.0.9"}, TargetRef: ref("a")},
		},
	})
	d := reach.New(s, agents{})
	for range 20 {
		endpoint, err := d.Endpoint(t.Context(), "ns", "web", "www")
		if err != nil || endpoint.Pod == nil || endpoint.Pod.Name != "b" || endpoint.Port != 9090 {
			t.Fatalf("%+v, %v, want port 9090 of pod b", endpoint, err)
		}
	}
}

func TestWhatCannotBeReachedSaysWhy(t *testing.T) {
	s := storetest.New(t)
	create(t, s, store.Services, service("web", nil))
	create(t, s, store.Services, service("loop", func(s *corev1.Service) {
		s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "127.0.0.1"}
	}))
	d := reach.New(s, agents{})
	for _, c := range []struct {
		service string
		port    int32
		want    error
	}{
		{"none", 80, reach.ErrNoService},
		{"web", 81, reach.ErrNoPort},
		{"web", 80, reach.ErrNoEndpoints},
		{"loop", 80, reach.ErrNotAllowed},
	} {
		if _, err := d.Service(t.Context(), "ns", c.service, c.port); !errors.Is(err, c.want) {
			t.Errorf("%s:%d: %v, want %v", c.service, c.port, err, c.want)
		}
	}
}

// CVE-2020-8555 and its kin: a name that leads to the loopback must not be a way
// around the check of addresses.
func TestCVE20208555NamesOfThisMachineAreNotReached(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := storetest.New(t)
	create(t, s, store.Services, service("local", func(s *corev1.Service) {
		s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"}
	}))
	conn, err := reach.New(s, agents{}).Service(t.Context(), "ns", "local", int32(listener.Addr().(*net.TCPAddr).Port))
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, reach.ErrNotAllowed) {
		t.Errorf("localhost: %v, want %v", err, reach.ErrNotAllowed)
	}
}

func TestConnectionIsANetConn(t *testing.T) {
	s := storetest.New(t)
	connect := func() net.Conn {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		conn, err := reach.New(s, agents{}).Pod(ctx, pod("web", "n1", "10.0.0.1", corev1.ConditionTrue), 80)
		cancel() // bounds opening only
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	t.Run("large writes arrive whole, then the end", func(t *testing.T) {
		conn := connect()
		sent := strings.Repeat("x", 1<<20)
		go func() {
			_, _ = io.WriteString(conn, sent)
			_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		if want := "n1:web:80:true\n" + sent; string(got) != want || err != nil {
			t.Errorf("%d bytes and %v, want %d", len(got), err, len(want))
		}
	})
	t.Run("a deadline ends a read", func(t *testing.T) {
		conn := connect()
		_, _ = conn.Read(make([]byte, 64))
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v, want %v", err, os.ErrDeadlineExceeded)
		}
	})
	t.Run("closing ends a read", func(t *testing.T) {
		conn := connect()
		_, _ = conn.Read(make([]byte, 64))
		time.AfterFunc(10*time.Millisecond, func() { _ = conn.Close() })
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v, want %v", err, net.ErrClosed)
		}
	})
	t.Run("an agent that cannot be reached", func(t *testing.T) {
		gone := errors.New("no session")
		if _, err := reach.New(s, agents{refuse: gone}).Pod(t.Context(), pod("web", "n1", "", ""), 80); !errors.Is(err, gone) {
			t.Errorf("%v, want %v", err, gone)
		}
	})
}
