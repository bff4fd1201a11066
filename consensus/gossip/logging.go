package gossip

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
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
