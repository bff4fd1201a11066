package transport_test

import (
	"context"
	"testing"
	"time"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/transport"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listen runs a Mux until the test ends or stop is called, which waits.
func listen(t *testing.T, id *identity.Identity) (mux *transport.Mux, stop func()) {
	t.Helper()
	mux, err := transport.Listen("127.0.0.1:0", id)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- mux.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(5 * time.Second):
			t.Error("Run does not end")
		}
	}
	t.Cleanup(stop)
	return mux, stop
}
