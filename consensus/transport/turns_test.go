package transport_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus/identity/identitytest"
	"github.com/musterhq/muster/consensus/transport"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// Many more come at once than may be unfinished. All of them do their part, so
// none is to be thrown out; it only takes longer.
func TestACrowdIsServedInTurn(t *testing.T) {
	cluster := identitytest.New(t)
	mux, _ := listen(t, cluster.Server("c1"))
	transport.SetHandshakesMax(mux, 4)
	serveHTTP(t, mux)
	var crowd sync.WaitGroup
	for range 100 {
		crowd.Go(func() {
			conn, err := tls.Dial("tcp", mux.Addr().String(), &tls.Config{RootCAs: cluster.Roots()})
			if err != nil {
				t.Errorf("thrown out: %v", err)
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
			if _, err := conn.Read(make([]byte, 1)); err != nil {
				t.Errorf("not served: %v", err)
			}
		})
	}
	crowd.Wait()
}

// Clients that say what they want, have all the work of a handshake done, and
// then say nothing more must not keep a turn.
func TestClientsThatStallKeepNoTurn(t *testing.T) {
	cluster := identitytest.New(t)
	mux, _ := listen(t, cluster.Server("c1"))
	serveHTTP(t, mux)
	for range 40 {
		conn, err := net.Dial("tcp", mux.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = tls.Client(helloOnly{conn}, &tls.Config{RootCAs: cluster.Roots(), ServerName: "kubernetes"}).Handshake()
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: cluster.Roots()}}}
	defer client.CloseIdleConnections()
	response, err := client.Get("https://" + mux.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
}

// Those who are asked and say nothing must not keep others from being asked.
func TestServersThatStallKeepNoTurn(t *testing.T) {
	cluster := identitytest.New(t)
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var crowd sync.WaitGroup
	defer func() { cancel(); crowd.Wait() }()
	for range 40 {
		conn, err := transport.DialGRPC(mute.Addr().String(), cluster.Agent("n1"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		crowd.Go(func() { _, _ = clusterv1.NewOperatorClient(conn).Members(ctx, &clusterv1.MembersRequest{}) })
		asked, err := mute.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer asked.Close()
		if _, err := asked.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	mux, _ := listen(t, cluster.Server("c1"))
	serveGRPC(t, mux)
	conn, err := transport.DialGRPC(mux.Addr().String(), cluster.Server("c2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := clusterv1.NewOperatorClient(conn).Members(ctx, &clusterv1.MembersRequest{}); err != nil {
		t.Fatal(err)
	}
}

// helloOnly lets a client's first message through and no answer back.
type helloOnly struct{ net.Conn }

func (helloOnly) Read([]byte) (int, error) { return 0, errors.New("nothing is read") }
