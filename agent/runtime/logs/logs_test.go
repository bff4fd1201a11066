package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var start = time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)

func write(t *testing.T, path string, lines ...Line) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, l := range lines {
		if _, err := f.Write(l.Format(nil)); err != nil {
			t.Fatal(err)
		}
	}
}

func numbered(from, to int) []Line {
	var lines []Line
	for i := from; i <= to; i++ {
		lines = append(lines, Line{Time: start.Add(time.Duration(i) * time.Second), Text: fmt.Appendf(nil, "line %d\n", i)})
	}
	return lines
}

func read(t *testing.T, path string, opts Options) string {
	t.Helper()
	var out bytes.Buffer
	if err := Read(t.Context(), path, opts, func() bool { return false }, &out, &out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

var all = Options{Tail: -1, LimitBytes: -1}

func TestReadSelects(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, numbered(1, 5)...)
	for _, c := range []struct {
		name string
		opts Options
		want string
	}{
		{"all", all, "line 1\nline 2\nline 3\nline 4\nline 5\n"},
		{"tail", Options{Tail: 2, LimitBytes: -1}, "line 4\nline 5\n"},
		{"tail of more than there is", Options{Tail: 9, LimitBytes: -1}, "line 1\nline 2\nline 3\nline 4\nline 5\n"},
		{"tail of nothing", Options{Tail: 0, LimitBytes: -1}, ""},
		{"since", Options{Tail: -1, LimitBytes: -1, Since: start.Add(4 * time.Second)}, "line 4\nline 5\n"},
		{"limit", Options{Tail: -1, LimitBytes: 10}, "line 1\nlin"},
		{"limit of nothing", Options{Tail: -1, LimitBytes: 0}, ""},
		{"timestamps", Options{Tail: 1, LimitBytes: -1, Timestamps: true}, "2026-01-02T03:04:10.0000006Z line 5\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := read(t, path, c.opts); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Lines longer than the runtime's buffer come in pieces; only the first may
// carry a timestamp and none but the last a newline.
func TestReadJoinsPieces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path,
		Line{Time: start, Partial: true, Text: []byte("one ")},
		Line{Time: start, Stderr: true, Text: []byte("aside\n")},
		Line{Time: start, Partial: true, Text: []byte("two ")},
		Line{Time: start, Text: []byte("three\n")},
	)
	var stdout, stderr bytes.Buffer
	opts := all
	opts.Timestamps = true
	if err := Read(t.Context(), path, opts, func() bool { return false }, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	if got, want := stdout.String(), "2026-01-02T03:04:05.0000006Z one two three\n"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
	if got, want := stderr.String(), "2026-01-02T03:04:05.0000006Z aside\n"; got != want {
		t.Errorf("stderr %q, want %q", got, want)
	}
}

func TestTailAcrossBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, numbered(1, 5000)...)
	got := read(t, path, Options{Tail: 3000, LimitBytes: -1})
	if n := strings.Count(got, "\n"); n != 3000 {
		t.Errorf("%d lines, want 3000", n)
	}
	if !strings.HasPrefix(got, "line 2001\n") {
		t.Errorf("begins with %.20q, want line 2001", got)
	}
}

// A follower must see every line once though the file is rotated under it, and
// end by itself, having read the last words, when the container has.
func TestFollowAcrossRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, numbered(1, 3)...)
	var alive atomic.Bool
	alive.Store(true)
	out := &lockedBuffer{}
	done := make(chan error, 1)
	opts := all
	opts.Follow = true
	go func() { done <- Read(t.Context(), path, opts, alive.Load, out, out) }()
	out.wait(t, "line 3\n")

	reopened := false
	limits := Limits{FileBytes: 10, Files: 2}
	if err := Rotate(path, limits, time.Now(), func() error {
		write(t, path+".x", numbered(4, 4)...) // nothing: only the new file matters
		os.Remove(path + ".x")
		reopened = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !reopened {
		t.Fatal("the runtime was not told to reopen its log")
	}
	write(t, path, numbered(4, 5)...)
	out.wait(t, "line 5\n")
	write(t, path, numbered(6, 6)...)
	alive.Store(false)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "line 1\nline 2\nline 3\nline 4\nline 5\nline 6\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write(t, path, numbered(1, 1)...)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	opts := all
	opts.Follow = true
	err := Read(ctx, path, opts, func() bool { return true }, &bytes.Buffer{}, nil)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's end", err)
	}
}

func TestRotateKeepsFew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	limits := Limits{FileBytes: 10, Files: 3}
	for i := range 6 {
		write(t, path, numbered(i, i+1)...)
		if err := Rotate(path, limits, start.Add(time.Duration(i)*time.Second), func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	old, _ := filepath.Glob(path + ".*")
	if len(old) != 2 {
		t.Errorf("%d files put aside, want 2: %v", len(old), old)
	}
	// A runtime that can't reopen still writes to its open file: it keeps the name.
	write(t, path, numbered(1, 3)...)
	broken := errors.New("broken")
	if err := Rotate(path, limits, start, func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v, want the reason", err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the log lost its name: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05.000000600Z stdout F hello\n"))
	f.Add([]byte("2026-01-02T03:04:05.000000600Z stderr P hel"))
	f.Add([]byte("2026-01-02T03:04:05Z stdout F"))
	f.Add([]byte("2026-01-02T03:04:05Z stdout F:tag \n"))
	f.Add([]byte(" \n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if i := bytes.IndexByte(raw, '\n'); i >= 0 {
			raw = raw[:i+1] // what a line reader gives
		}
		line, err := Parse(raw)
		if err != nil {
			return
		}
		if ends := bytes.HasSuffix(line.Text, []byte{'\n'}); ends == line.Partial {
			t.Fatalf("partial %v but newline %v in %q", line.Partial, ends, line.Text)
		}
		if y := line.Time.UTC().Year(); y < 1 || y > 9998 {
			return // no RFC 3339
		}
		line.Time = line.Time.UTC()
		again, err := Parse(line.Format(nil))
		if err != nil {
			t.Fatalf("formatted line does not parse: %v", err)
		}
		if !again.Time.Equal(line.Time) || again.Stderr != line.Stderr || again.Partial != line.Partial || !bytes.Equal(again.Text, line.Text) {
			t.Fatalf("got %+v, want %+v", again, line)
		}
	})
}

// FuzzRead feeds whole files, torn and foreign ones too.
func FuzzRead(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05Z stdout F a\n2026-01-02T03:04:05Z stderr P b\n"), int64(1), int64(3))
	f.Add([]byte("\n\n\nx"), int64(-1), int64(-1))
	f.Fuzz(func(t *testing.T, content []byte, tail, limit int64) {
		path := filepath.Join(t.TempDir(), "0.log")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := Read(t.Context(), path, Options{Tail: tail, LimitBytes: limit}, func() bool { return false }, &out, &out); err != nil {
			t.Fatal(err)
		}
		if limit >= 0 && int64(out.Len()) > limit {
			t.Fatalf("%d bytes, limit %d", out.Len(), limit)
		}
		if at, err := tailOffset(bytes.NewReader(content), max(tail, 1)); err != nil || at < 0 || at > int64(len(content)) {
			t.Fatalf("offset %d of %d: %v", at, len(content), err)
		}
	})
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *lockedBuffer) wait(t *testing.T, end string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !strings.HasSuffix(b.String(), end); {
		if time.Now().After(deadline) {
			t.Fatalf("got %q, want it to end with %q", b.String(), end)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
