package transport_test

import (
	"crypto/tls"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/identity/identitytest"
	"github.com/musterhq/muster/consensus/transport"
	"golang.org/x/sys/unix"
)

// A host that loses power sends no goodbye. The kernel has to notice, on both
// ends: here it is asked what it would do, as pulling a plug takes a network
// of one's own.
func TestBothEndsNoticeAVanishedHost(t *testing.T) {
	cluster := identitytest.New(t)
	mux1, _ := listen(t, cluster.Server("c1"))
	mux2, _ := listen(t, cluster.Server("c2"))
	layer := mux1.Layer("c1:1")
	dialed, err := mux2.Layer("c2:1").Dial(raftAddress(mux1), 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer dialed.Close()
	accepted, err := layer.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()

	config := cluster.Agent("n1").ClientTLS(identity.ServerName)
	config.NextProtos = []string{transport.ALPNGRPC}
	client, err := tls.Dial("tcp", mux1.Addr().String(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	grpc, err := mux1.GRPC().Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer grpc.Close()

	for name, conn := range map[string]net.Conn{"dialed": dialed, "accepted": accepted, "accepted for gRPC": grpc} {
		raw, err := conn.(*tls.Conn).NetConn().(interface {
			net.Conn
			SyscallConn() (syscall.RawConn, error)
		}).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		get := func(option int) (value int) {
			raw.Control(func(fd uintptr) {
				if value, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option); err != nil {
					t.Error(err)
				}
			})
			return value
		}
		if got, want := get(unix.TCP_USER_TIMEOUT), int(transport.LossTimeout.Milliseconds()); got != want {
			t.Errorf("%s: TCP_USER_TIMEOUT is %d ms, want %d", name, got, want)
		}
		if idle, every := get(unix.TCP_KEEPIDLE), get(unix.TCP_KEEPINTVL); idle != 1 || every != 1 {
			t.Errorf("%s: probed after %d s, then every %d s, want 1 and 1", name, idle, every)
		}
	}
}
