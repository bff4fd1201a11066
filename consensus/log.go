package consensus

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// raftLogger passes raft's log on. What raft calls Info is of interest to
// whoever debugs it, so it is Debug here; its warnings stay, but the same one
// at most once in repeatEvery: a peer that is down fails many times a second.
type raftLogger struct {
	to   *slog.Logger
	name string
	args []any
	seen *repeats
}

const (
	repeatEvery = 10 * time.Second
	repeatsMax  = 256
)

func newRaftLogger(to *slog.Logger) *raftLogger {
	return &raftLogger{to: to, name: "raft", seen: &repeats{last: map[string]time.Time{}}}
}

// expected is what raft warns of and every start or join of a node brings.
var expected = map[string]bool{
	"no known peers, aborting election":                   true,
	"not part of stable configuration, aborting election": true,
	"failed to get previous log":                          true,
	"appendEntries rejected, sending older logs":          true,
	"heartbeat timeout reached, not part of a stable configuration or a non-voter, not triggering a leader election": true,
}

// repeats remembers when a message was last written.
type repeats struct {
	mu   sync.Mutex
	last map[string]time.Time
	// quiet: the node stops, and raft complains of its closed connections.
	quiet atomic.Bool
}

func (r *repeats) due(message string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.last[message]; ok && now.Sub(last) < repeatEvery {
		return false
	}
	if len(r.last) >= repeatsMax {
		clear(r.last)
	}
	r.last[message] = now
	return true
}

func levelOf(level hclog.Level) slog.Level {
	switch {
	case level >= hclog.Warn && level < hclog.Off:
		return slog.LevelWarn // raft's errors are all about something it tries again
	default:
		return slog.LevelDebug
	}
}

func (l *raftLogger) Log(level hclog.Level, message string, args ...any) {
	at := levelOf(level)
	if expected[message] || l.seen.quiet.Load() {
		at = slog.LevelDebug
	}
	ctx := context.Background()
	if !l.to.Enabled(ctx, at) {
		return
	}
	if at >= slog.LevelWarn && !l.seen.due(message+peerIn(args), time.Now()) {
		return
	}
	all := append(append(make([]any, 0, len(l.args)+len(args)), l.args...), args...)
	for i, a := range all {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			if format, ok := f[0].(string); ok {
				all[i] = fmt.Sprintf(format, f[1:]...)
			}
		}
	}
	l.to.Log(ctx, at, l.name+": "+message, all...)
}

// peerIn tells messages about different peers apart.
func peerIn(args []any) string {
	for i := 0; i+1 < len(args); i += 2 {
		switch args[i] {
		case "peer", "target", "server-id", "from":
			return fmt.Sprint(" ", args[i+1])
		}
	}
	return ""
}

func (l *raftLogger) Trace(message string, args ...any) { l.Log(hclog.Trace, message, args...) }
func (l *raftLogger) Debug(message string, args ...any) { l.Log(hclog.Debug, message, args...) }
func (l *raftLogger) Info(message string, args ...any)  { l.Log(hclog.Info, message, args...) }
func (l *raftLogger) Warn(message string, args ...any)  { l.Log(hclog.Warn, message, args...) }
func (l *raftLogger) Error(message string, args ...any) { l.Log(hclog.Error, message, args...) }

func (l *raftLogger) IsTrace() bool { return false }
func (l *raftLogger) IsDebug() bool { return l.to.Enabled(context.Background(), slog.LevelDebug) }
func (l *raftLogger) IsInfo() bool  { return l.IsDebug() }
func (l *raftLogger) IsWarn() bool  { return l.to.Enabled(context.Background(), slog.LevelWarn) }
func (l *raftLogger) IsError() bool { return l.IsWarn() }

func (l *raftLogger) ImpliedArgs() []any { return l.args }

func (l *raftLogger) With(args ...any) hclog.Logger {
	with := *l
	with.args = append(append([]any(nil), l.args...), args...)
	return &with
}

func (l *raftLogger) Name() string { return l.name }

func (l *raftLogger) Named(name string) hclog.Logger { return l.ResetNamed(l.name + "." + name) }

func (l *raftLogger) ResetNamed(name string) hclog.Logger {
	named := *l
	named.name = name
	return &named
}

func (l *raftLogger) SetLevel(hclog.Level)  {}
func (l *raftLogger) GetLevel() hclog.Level { return hclog.Debug }

func (l *raftLogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(l.to.Handler(), slog.LevelDebug)
}

func (l *raftLogger) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	return l.StandardLogger(o).Writer()
}
