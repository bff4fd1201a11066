package audit

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	defaultMaxSize = 100 // megabytes
	// stamp is in the names of files that were set aside.
	stamp = "2006-01-02T15-04-05.000000000"
)

// rotated is a file that is set aside when it is full: audit.log becomes
// audit-2026-01-02T15-04-05.000000000.log. The oldest of those go. It is used by one
// goroutine at a time.
type rotated struct {
	path       string
	maxBytes   int64
	maxBackups int
	maxAge     time.Duration
	now        func() time.Time

	file *os.File
	size int64
}

func openRotated(cfg Config) (*rotated, error) {
	r := &rotated{
		path: cfg.Path, maxBytes: int64(cmp.Or(cfg.MaxSize, defaultMaxSize)) << 20, maxBackups: cfg.MaxBackups,
		maxAge: time.Duration(cfg.MaxAge) * 24 * time.Hour, now: time.Now,
	}
	if err := os.MkdirAll(filepath.Dir(r.path), 0o700); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return r, r.open()
}

func (r *rotated) open() error {
	file, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("audit log: %w", err)
	}
	at, err := file.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("audit log: %w", err), file.Close())
	}
	r.file, r.size = file, at.Size()
	return nil
}

// Write writes a line, which is never cut in two files.
func (r *rotated) Write(line []byte) (int, error) {
	if r.file == nil || r.size > 0 && r.size+int64(len(line)) > r.maxBytes {
		if err := r.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := r.file.Write(line)
	r.size += int64(n)
	return n, err
}

func (r *rotated) Close() error {
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}

// rotate sets the file aside. What cannot be set aside goes on growing: better a
// large log than none.
func (r *rotated) rotate() error {
	if r.file != nil {
		_ = r.file.Close() // its lines were written
		r.file = nil
		if os.Rename(r.path, r.aside(r.now())) == nil {
			r.prune()
		}
	}
	return r.open()
}

func (r *rotated) aside(at time.Time) string {
	extension := filepath.Ext(r.path)
	return strings.TrimSuffix(r.path, extension) + "-" + at.UTC().Format(stamp) + extension
}

// prune removes what is too old or too much. A file that stays because of an
// error is tried again the next time.
func (r *rotated) prune() {
	extension := filepath.Ext(r.path)
	prefix := strings.TrimSuffix(r.path, extension) + "-"
	files, err := filepath.Glob(prefix + "*" + extension)
	if err != nil {
		return
	}
	slices.Sort(files)
	slices.Reverse(files) // the newest first
	kept := 0
	for _, file := range files {
		made, err := time.Parse(stamp, strings.TrimSuffix(strings.TrimPrefix(file, prefix), extension))
		if err != nil {
			continue // not ours
		}
		if r.maxBackups > 0 && kept >= r.maxBackups || r.maxAge > 0 && r.now().Sub(made) > r.maxAge {
			_ = os.Remove(file)
			continue
		}
		kept++
	}
}
