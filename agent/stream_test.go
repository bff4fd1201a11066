package agent

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/musterhq/muster/agent/runtime"
)

// dialling is a runtime that only dials.
type dialling struct{ runtime.Runtime }

func (dialling) Dial(ctx context.Context, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

func TestConnectCarriesAConnectionUntilThePodHasSaidAll(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(conn, conn) // until the other side has said all
	}()
	a := &Agent{runtime: dialling{}}
	here, there := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- a.connect(t.Context(), listener.Addr().String(), there) }()
	if _, err := here.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(here, got); err != nil || string(got) != "hello" {
		t.Errorf("echo %q, %v, want hello", got, err)
	}
	here.Close()
	<-done
	listener.Close()
	if err := a.connect(t.Context(), listener.Addr().String(), there); err == nil {
		t.Error("nobody listens, and connecting worked")
	}
}
