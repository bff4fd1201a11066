package control

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A node that can't start says why in one line, leaves what is there as it is,
// and holds nothing: no port, no lock, no goroutine. Provoked by damaging the
// directory of a node that was stopped, one file at a time.
func TestDamagedDirectoryIsRefusedInOneLine(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func(dir string) error
		want   string // in the message
	}{
		{"log cut short", func(dir string) error { return os.Truncate(filepath.Join(dir, "raft/log-0000000000000001"), 5000) }, "log-0000000000000001"},
		{"log overwritten", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "raft/log-0000000000000001"), []byte(strings.Repeat("rubbish!", 8192)), 0o600)
		}, "log-0000000000000001"},
		{"identity damaged", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "identity.json"), []byte("{"), 0o600)
		}, "identity.json"},
		{"no key", func(dir string) error { return os.Remove(filepath.Join(dir, "pki/node.key")) }, "node.key"},
		{"no CA key", func(dir string) error { return os.Remove(filepath.Join(dir, "pki/ca.key")) }, "ca.key"},
		{"settings damaged", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "server.json"), []byte("]"), 0o600)
		}, "server.json"},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := Config{
				Dir: t.TempDir(), Name: "c1", Init: true,
				Address: freeAddress(t), GossipAddress: "127.0.0.1:0",
			}
			cfg.Listen = cfg.Address
			startAndStop(t, cfg)
			if err := test.damage(cfg.Dir); err != nil {
				t.Fatal(err)
			}
			server, err := New(t.Context(), cfg)
			if err == nil {
				ended, end := context.WithCancel(t.Context())
				end()
				_ = server.Run(ended)
				t.Fatal("the damaged directory was taken")
			}
			if text := err.Error(); !strings.Contains(text, test.want) || strings.Contains(text, "\n") {
				t.Errorf("got %q, want one line that names %s", text, test.want)
			}
			// The port is free again.
			listener, err := net.Listen("tcp", cfg.Address)
			if err != nil {
				t.Fatalf("the port is still held: %v", err)
			}
			listener.Close()
		})
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func startAndStop(t *testing.T, cfg Config) {
	t.Helper()
	server, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	select {
	case <-server.Ready():
	case err := <-ended:
		t.Fatalf("the node ended with %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}
