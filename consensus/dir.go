package consensus

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/consensus/wal"
)

// dir is Dir/raft:
//
//	lock        held by the process that uses the directory; says which
//	node.json   whose directory this is
//	log-*       the log, in segments (package wal)
//	promises    term and vote
//	snapshots/  the newest two
//
// In format 1 log.db, of bolt, held log, term and vote; see convert.go.
type dir struct {
	path string
	disk wal.Disk
	lock *os.File
	node nodeFile
	log  *wal.Log
	// segmentBytes is what segments of the log grow to.
	segmentBytes int64
	stable       *wal.Stable
}

// nodeFile is written when the log exists, so either both are there or the
// directory has not been used yet.
type nodeFile struct {
	Format  int    `json:"format"` // 2
	Cluster string `json:"cluster"`
	Name    string `json:"name"`
	// Joined: the cluster has taken this node and its log in. Until then the
	// node is fresh: it has promised nothing and must not vote.
	Joined bool `json:"joined"`
	// Check is a checksum of the others, since format 2.
	Check string `json:"check,omitempty"`
}

func (n nodeFile) check() string {
	return fmt.Sprintf("%08x", crc32.ChecksumIEEE(fmt.Appendf(nil, "%d %q %q %t", n.Format, n.Cluster, n.Name, n.Joined)))
}

const (
	dirFormat  = 2
	boltFormat = 1
	probeBytes = 1 << 20 // what must fit on the disk for a first start to make sense
)

func openDir(cfg Config) (*dir, error) {
	d := &dir{path: filepath.Join(cfg.Dir, "raft"), disk: cfg.Disk, segmentBytes: segmentBytes(cfg.SnapshotBytes)}
	if d.disk == nil {
		d.disk = wal.OS
	}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return nil, diskError(d.path, err)
	}
	opened := false
	defer func() {
		if !opened {
			d.close()
		}
	}()
	if err := d.takeLock(); err != nil {
		return nil, err
	}
	used, err := d.readNode(cfg)
	if err != nil {
		return nil, err
	}
	if err := d.probe(); err != nil && !(used && d.node.Format == dirFormat && errors.Is(err, syscall.ENOSPC)) {
		// A node that has its log already can serve reads from a full disk.
		return nil, diskError(d.path, err)
	}
	if used && d.node.Format == boltFormat {
		err = d.convert()
	} else if used {
		err = d.openLog()
	} else {
		err = d.createLog(cfg)
	}
	if err != nil {
		return nil, diskError(d.path, err)
	}
	opened = true
	return d, nil
}

func (d *dir) openLog() (err error) {
	if d.log, err = wal.Open(d.logOptions()); err != nil {
		return err
	}
	if d.stable, err = wal.OpenStable(d.disk, d.path); err != nil {
		return err
	}
	// What is left when a conversion was interrupted at its very end.
	if err := os.Remove(d.boltPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// createLog makes an empty log for a directory that has not been used. A process
// may have ended while it did the same.
func (d *dir) createLog(cfg Config) error {
	if err := d.checkUnused(); err != nil {
		return err
	}
	if err := d.newLog(); err != nil {
		return err
	}
	d.node = nodeFile{Format: dirFormat, Cluster: cfg.ClusterID, Name: cfg.Name}
	return d.writeNode()
}

// newLog makes an empty log and stable store in place of any that is there.
func (d *dir) newLog() (err error) {
	if err := wal.Remove(d.disk, d.path); err != nil {
		return err
	}
	if d.log, err = wal.Create(d.logOptions()); err != nil {
		return err
	}
	d.stable, err = wal.CreateStable(d.disk, d.path)
	return err
}

// checkUnused refuses a directory whose node.json was lost.
func (d *dir) checkUnused() error {
	lost := func(path string) error {
		return damaged(path, fmt.Errorf("it was used, but %s is missing", d.nodePath()))
	}
	exists, err := wal.Exists(d.disk, d.path)
	if err != nil {
		return err
	}
	if exists {
		l, err := wal.Open(d.logOptions())
		if err != nil {
			return err
		}
		last := l.Next()
		if err := l.Close(); err != nil {
			return err
		}
		if last > 1 {
			return lost(d.path)
		}
	}
	if exists, err = wal.ExistsStable(d.disk, d.path); err != nil {
		return err
	}
	if exists {
		s, err := wal.OpenStable(d.disk, d.path)
		if err != nil {
			return err
		}
		empty := s.Empty()
		if err := s.Close(); err != nil {
			return err
		}
		if !empty {
			return lost(d.path)
		}
	}
	return d.checkUnusedBolt(lost)
}

func (d *dir) logOptions() wal.Options {
	return wal.Options{Disk: d.disk, Dir: d.path, SegmentBytes: d.segmentBytes}
}

func (d *dir) close() {
	if d.log != nil {
		_ = d.log.Close() // every write was synced
	}
	if d.stable != nil {
		_ = d.stable.Close()
	}
	if d.lock != nil {
		_ = d.lock.Close() // gives the lock up
	}
}

func (d *dir) takeLock() error {
	f, err := os.OpenFile(filepath.Join(d.path, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return diskError(d.path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(f.Name())
		_ = f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return diskError(d.path, err)
		}
		by := "another process"
		if pid := strings.TrimSpace(string(holder)); pid != "" {
			by = "process " + pid
		}
		return fmt.Errorf("%s is in use by %s: stop that first, or choose another data directory", d.path, by)
	}
	d.lock = f
	_ = f.Truncate(0) // the number is only for the message above
	_, _ = f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)
	return nil
}

// probe writes a little, to find a full or read-only disk before a member is up on it.
func (d *dir) probe() error {
	name := filepath.Join(d.path, "probe.tmp")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(name)
	_, err = f.Write(make([]byte, probeBytes))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (d *dir) nodePath() string { return filepath.Join(d.path, "node.json") }

// readNode says whether the directory has been used, and refuses one that is not this node's.
func (d *dir) readNode(cfg Config) (used bool, err error) {
	b, err := os.ReadFile(d.nodePath())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, diskError(d.path, err)
	}
	if err := json.Unmarshal(b, &d.node); err != nil || d.node.Cluster == "" || d.node.Name == "" {
		return false, damaged(d.nodePath(), errors.New("not what muster wrote there"))
	}
	switch {
	case d.node.Format < boltFormat, d.node.Format == dirFormat && d.node.Check != d.node.check():
		return false, damaged(d.nodePath(), errors.New("its checksum is wrong"))
	case d.node.Format > dirFormat:
		return false, fmt.Errorf("%s was written by a newer muster (format %d, this one knows %d): start that version", d.path, d.node.Format, dirFormat)
	case d.node.Cluster != cfg.ClusterID:
		return false, fmt.Errorf("%s %w: it is of %s, this node is of %s; choose another data directory, or move this one away and join anew",
			d.path, ErrForeign, d.node.Cluster, cfg.ClusterID)
	case d.node.Name != cfg.Name:
		return false, fmt.Errorf("%s belongs to node %q, this node is called %q: start it under its old name, or choose another data directory",
			d.path, d.node.Name, cfg.Name)
	}
	return true, nil
}

func (d *dir) writeNode() error {
	d.node.Check = d.node.check()
	b, err := json.MarshalIndent(d.node, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(d.path, "node.json.*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), d.nodePath()); err != nil {
		return err
	}
	return syncDir(d.path)
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// guarded calls f, which reads what may be damaged. Bolt and raft panic on
// much of that, and reading a mapped file that was cut off is a fault.
func guarded(path string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			if cause, ok := p.(error); ok {
				err = damaged(path, cause)
			} else {
				err = damaged(path, fmt.Errorf("%v", p))
			}
		}
	}()
	err = f()
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("%s is in use by another process: stop that first", path)
	}
	if errno := syscall.Errno(0); err == nil || errors.As(err, &errno) {
		return diskError(path, err)
	}
	return damaged(path, err) // not the system's word but what was read
}

// damagedError says what can be done. It is recognised so that it is said once.
type damagedError struct {
	path  string
	cause error
}

func (e *damagedError) Error() string {
	cause, _, _ := strings.Cut(e.cause.Error(), "\n")
	return fmt.Sprintf("%s is damaged (%s): move the data directory away and join this node anew, or restore it from a backup", e.path, cause)
}

func (e *damagedError) Unwrap() error { return e.cause }

func damaged(path string, cause error) error {
	if lost := new(wal.DamageError); errors.As(cause, &lost) {
		path, cause = lost.Path, lost.Cause
	}
	if known := new(damagedError); errors.As(cause, &known) {
		return known
	}
	return &damagedError{path, cause}
}

// diskError says in one line what is wrong with the disk and what helps.
func diskError(path string, err error) error {
	known, lost := new(damagedError), new(wal.DamageError)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known
	case errors.As(err, &lost):
		return damaged(lost.Path, lost.Cause)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("the disk that holds %s is full: free some space and start again: %w", path, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("the disk that holds %s is read-only: mount it writable and start again: %w", path, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s cannot be written: start as the user it belongs to, or choose another data directory: %w", path, err)
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s cannot be a directory: choose another data directory: %w", path, err)
	case errors.Is(err, syscall.EIO):
		return fmt.Errorf("the disk that holds %s fails: replace it and join this node anew: %w", path, err)
	default:
		return fmt.Errorf("%s: %w", path, err)
	}
}
