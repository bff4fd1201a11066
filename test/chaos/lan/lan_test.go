package lan

import (
	"context"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

func network(t *testing.T, names ...string) *LAN {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	l, err := New(names...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// echo answers on a host's port 7 what it is told.
func echo(t *testing.T, h *Host) {
	t.Helper()
	var listener net.Listener
	if err := h.Do(func() (err error) { listener, err = net.Listen("tcp4", h.Addr.String()+":7"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
}

func ask(t *testing.T, conn net.Conn, wait time.Duration) error {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 5))
	return err
}

func dial(t *testing.T, from *Host, to *Host) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := from.Dial(ctx, to.Addr.String()+":7")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestCutLinkCarriesNothingAndOthersEverything(t *testing.T) {
	l := network(t, "a", "b", "c")
	echo(t, l.Host(1))
	ab, cb := dial(t, l.Host(0), l.Host(1)), dial(t, l.Host(2), l.Host(1))
	for _, conn := range []net.Conn{ab, cb} {
		if err := ask(t, conn, 20*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	l.Set(1, 0, Link{Cut: true}) // one way: what a asks arrives, the answer does not
	if err := ask(t, ab, 300*time.Millisecond); err == nil {
		t.Error("an answer came over a link that is cut")
	}
	if err := ask(t, cb, 20*time.Second); err != nil {
		t.Errorf("the link beside the one that is cut: %v", err)
	}
	l.Set(1, 0, Link{})
	if err := ask(t, dial(t, l.Host(0), l.Host(1)), 20*time.Second); err != nil {
		t.Errorf("the link that was healed: %v", err)
	}
	if _, lost := l.Packets(1, 0); lost == 0 {
		t.Error("no packet counts as lost")
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	l := network(t, "a", "b")
	l.Both(0, 1, Link{Cut: true})
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if conn, err := l.Host(0).Dial(ctx, l.Host(1).Addr.String()+":7"); err == nil {
		conn.Close()
		t.Error("connected over a link that is cut")
	}
}

// TCP brings everything over all the same, only later: that is what makes these
// faults and not breakage of the test's own.
func TestConnectionSurvivesABadLink(t *testing.T) {
	l := network(t, "a", "b")
	echo(t, l.Host(1))
	l.Both(0, 1, Link{Delay: 30 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.1, Duplicate: 0.2, Reorder: 0.2})
	conn := dial(t, l.Host(0), l.Host(1))
	for range 5 {
		if err := ask(t, conn, 30*time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDelayDelaysEachWay(t *testing.T) {
	l := network(t, "a", "b")
	echo(t, l.Host(1))
	conn := dial(t, l.Host(0), l.Host(1))
	l.Both(0, 1, Link{Delay: 30 * time.Millisecond, Jitter: 10 * time.Millisecond})
	began := time.Now()
	for range 5 {
		if err := ask(t, conn, 30*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 5*60*time.Millisecond {
		t.Errorf("5 round trips took %v, want at least 5 times 60ms", took)
	}
}

// A Host's thread is where its processes and sockets come from; it must not see
// the machine's own network.
func TestHostHasANetworkOfItsOwn(t *testing.T) {
	l := network(t, "a")
	var names []string
	err := l.Host(0).Do(func() error {
		interfaces, err := net.Interfaces()
		for _, i := range interfaces {
			names = append(names, i.Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if name == "eth0" {
			t.Errorf("interfaces %q, want none of the machine's", names)
		}
	}
}
