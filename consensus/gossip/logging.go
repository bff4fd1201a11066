package gossip

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
)

// logWriter passes memberlist's lines, "[LEVEL] memberlist: text", on. Its INFO
// is about single packets. So are its complaints about single probes and
// exchanges that failed, which is how the death of a node begins; the death
// itself is logged by members.
type logWriter struct{ log *slog.Logger }

var routine = []string{"Failed fallback TCP ping", "Push/Pull with", "Failed to send", "Refuting", "Conflicting address"}

func (w *logWriter) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	level := slog.LevelDebug
	if name, rest, ok := strings.Cut(text, "] "); ok && strings.HasPrefix(name, "[") {
		if name == "[WARN" || name == "[ERR" {
			level = slog.LevelWarn
		}
		text = rest
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	for _, prefix := range routine {
		if strings.HasPrefix(text, prefix) {
			level = slog.LevelDebug
		}
	}
	w.log.Log(context.Background(), level, text)
	return len(line), nil
}

// gated is a log that can be shut. memberlist's goroutines end up to a probe
// interval after its Shutdown, and nothing of Run may be heard after it returned.
type gated struct {
	slog.Handler
	gate *gate
}

type gate struct {
	mu   sync.RWMutex
	shut bool
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = true
}

func (h gated) Handle(ctx context.Context, record slog.Record) error {
	h.gate.mu.RLock()
	defer h.gate.mu.RUnlock()
	if h.gate.shut {
		return nil
	}
	return h.Handler.Handle(ctx, record)
}

func (h gated) WithAttrs(attrs []slog.Attr) slog.Handler {
	return gated{h.Handler.WithAttrs(attrs), h.gate}
}

func (h gated) WithGroup(name string) slog.Handler { return gated{h.Handler.WithGroup(name), h.gate} }
