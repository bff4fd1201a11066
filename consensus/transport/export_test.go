package transport

import (
	"time"

	"google.golang.org/grpc"
)

// ServerOptionsPinging are ServerOptions with pings that a test can wait for.
func ServerOptionsPinging(after time.Duration) []grpc.ServerOption { return serverOptions(after) }

// BacklogMax is for tests.
const BacklogMax = backlogMax

// LossTimeout is for tests.
const LossTimeout = lossTimeout

// SetHandshakesMax makes the bound reachable.
func SetHandshakesMax(m *Mux, n int) {
	m.open.mu.Lock()
	defer m.open.mu.Unlock()
	m.open.handshakesMax = n
}

// Handshakes and Open count the Mux's connections.
func Handshakes(m *Mux) int {
	m.open.mu.Lock()
	defer m.open.mu.Unlock()
	return m.open.unfinished.Len()
}

func Open(m *Mux) int {
	m.open.mu.Lock()
	defer m.open.mu.Unlock()
	return len(m.open.all)
}
