package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/musterhq/muster/control/backup"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// Schedule has a control node save the cluster to files, each the same as
// muster operator snapshot save writes.
type Schedule struct {
	// Dir is where; empty: nowhere. Several nodes may share one.
	Dir string
	// Every is how often; a state that has not changed since the last is not
	// saved again. Default 1 h.
	Every time.Duration
	// Keep is how many of this node's are kept. Default 24.
	Keep int
	// Passphrase encrypts them. They hold the keys of the cluster.
	Passphrase []byte
}

func (s *Schedule) complete() error {
	if s.Dir == "" {
		return nil
	}
	if s.Every == 0 {
		s.Every = time.Hour
	}
	if s.Keep == 0 {
		s.Keep = 24
	}
	if s.Every < time.Second {
		return fmt.Errorf("snapshot-every: %s is less than a second", s.Every)
	}
	if s.Keep < 1 {
		return fmt.Errorf("snapshot-keep: %d is less than one", s.Keep)
	}
	return nil
}

const (
	savedSuffix  = ".snapshot"
	savedPartial = ".partial"
	savedTime    = "20060102T150405Z"
	// savedRetry is before another try when one failed, unless the next is due sooner.
	savedRetry = time.Minute
)

// scheduled saves the cluster again and again.
type scheduled struct {
	Schedule
	name     string
	server   *Server
	newest   atomic.Int64 // Unix seconds; 0: none
	failures prometheus.Counter
	bytes    atomic.Int64 // of the newest
}

func newScheduled(s *Server) *scheduled {
	return &scheduled{Schedule: s.cfg.Snapshots, name: s.cfg.Name, server: s, failures: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "muster_snapshot_failures_total", Help: "Scheduled snapshots of the cluster that could not be written.",
	})}
}

// register adds the metrics. The age is that of the file, so it goes on over restarts.
func (s *scheduled) register(r prometheus.Registerer) error {
	if r == nil || s.Dir == "" {
		return nil
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f)
	}
	return errors.Join(r.Register(s.failures),
		r.Register(gauge("muster_snapshot_age_seconds", "Since the newest scheduled snapshot of this node was known to be current; -1: there is none.", func() float64 {
			if newest := s.newest.Load(); newest > 0 {
				return time.Since(time.Unix(newest, 0)).Seconds()
			}
			return -1
		})),
		r.Register(gauge("muster_snapshot_bytes", "Size of the newest scheduled snapshot of this node.", func() float64 { return float64(s.bytes.Load()) })),
	)
}

// Run saves until ctx ends. A failure is logged and tried again: it is no
// reason to end a control node.
func (s *scheduled) Run(ctx context.Context) error {
	if s.Dir == "" {
		return nil
	}
	log := s.server.cfg.Logger.With("part", "snapshots")
	select {
	case <-s.server.ready: // before, there may be no state yet
	case <-ctx.Done():
		return nil
	}
	for {
		wait := s.Every
		saved, err := s.save(ctx, time.Now())
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			s.failures.Inc()
			wait = min(wait, savedRetry)
			log.Error("the cluster was not saved; older snapshots are kept", "dir", s.Dir, "error", err, "again in", wait)
		case saved != "":
			log.Info("the cluster was saved", "file", saved, "bytes", s.bytes.Load())
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// save writes a file, and returns its path, unless nothing has changed. Old
// files go once the new one is whole.
func (s *scheduled) save(ctx context.Context, now time.Time) (path string, err error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return "", err
	}
	old, err := s.list()
	if err != nil {
		return "", err
	}
	revision := s.server.machine.Revision()
	if n := len(old); n > 0 {
		if last := old[n-1]; s.newest.Load() == 0 {
			s.newest.Store(last.at.Unix())
			s.bytes.Store(last.bytes)
		}
		if old[n-1].revision == revision {
			s.newest.Store(now.Unix()) // it is as good as a new one
			return "", nil
		}
	}
	cluster, err := s.server.clusterIdentity()
	if err != nil {
		return "", err
	}
	path = filepath.Join(s.Dir, savedName(now, s.name, revision))
	size, err := s.write(ctx, path, cluster)
	if err != nil {
		return "", err
	}
	s.newest.Store(now.Unix())
	s.bytes.Store(size)
	for len(old) >= s.Keep {
		if err := os.Remove(filepath.Join(s.Dir, old[0].name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return path, fmt.Errorf("remove an old snapshot: %w", err)
		}
		old = old[1:]
	}
	return path, nil
}

func (s *scheduled) write(ctx context.Context, path string, cluster *clusterv1.ClusterIdentity) (size int64, err error) {
	state, err := s.server.machine.Snapshot()
	if err != nil {
		return 0, err
	}
	partial := path + savedPartial
	file, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(partial) // frees what it took of a full disk
		}
	}()
	err = func() error {
		w, err := backup.NewWriter(file, cluster, s.Passphrase)
		if err != nil {
			return err
		}
		if err := state(untilDone{ctx, w}); err != nil {
			return err
		}
		if err := w.Close(); err != nil {
			return err
		}
		info, err := file.Stat()
		if err != nil {
			return err
		}
		size = info.Size()
		return file.Sync()
	}()
	if err = errors.Join(err, file.Close()); err != nil {
		return 0, err
	}
	if err := os.Rename(partial, path); err != nil {
		return 0, err
	}
	return size, syncDir(s.Dir)
}

// untilDone writes until a context ends.
type untilDone struct {
	ctx context.Context
	to  io.Writer
}

func (w untilDone) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.to.Write(b)
}

// savedName sorts by time, and tells nodes that share a directory apart.
func savedName(at time.Time, node string, revision uint64) string {
	return fmt.Sprintf("%s-%s-r%020d%s", at.UTC().Format(savedTime), node, revision, savedSuffix)
}

type savedFile struct {
	name     string
	at       time.Time
	revision uint64
	bytes    int64
}

// list is this node's files, oldest first. It also removes what a process left
// that ended while it wrote.
func (s *scheduled) list() ([]savedFile, error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil, err
	}
	var files []savedFile
	for _, e := range entries {
		name, partial := strings.CutSuffix(e.Name(), savedPartial)
		file, ours := s.parse(name)
		if !ours {
			continue
		}
		if partial {
			if err := os.Remove(filepath.Join(s.Dir, e.Name())); err != nil {
				return nil, err
			}
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // gone
		}
		file.bytes = info.Size()
		files = append(files, file)
	}
	slices.SortFunc(files, func(a, b savedFile) int { return strings.Compare(a.name, b.name) })
	return files, nil
}

func (s *scheduled) parse(name string) (savedFile, bool) {
	rest, ok := strings.CutSuffix(name, savedSuffix)
	at, rest, ok2 := strings.Cut(rest, "-")
	rest, ok3 := strings.CutPrefix(rest, s.name+"-r")
	when, err := time.Parse(savedTime, at)
	revision, err2 := strconv.ParseUint(rest, 10, 64)
	return savedFile{name: name, at: when, revision: revision}, ok && ok2 && ok3 && err == nil && err2 == nil
}
