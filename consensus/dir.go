package consensus

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// dir is Dir/raft:
//
//	lock        held by the process that uses the directory; says which
//	node.json   whose directory this is
//	log.db      bolt: log, term and vote
//	snapshots/  the newest two
type dir struct {
	path string
	lock *os.File
	node nodeFile
	bolt *raftboltdb.BoltStore
}

// nodeFile is written when log.db exists, so either both are there or the
// directory has not been used yet.
type nodeFile struct {
	Format  int    `json:"format"` // 1
	Cluster string `json:"cluster"`
	Name    string `json:"name"`
	// Joined: the cluster has taken this node and its log in. Until then the
	// node is fresh: it has promised nothing and must not vote.
	Joined bool `json:"joined"`
}

const (
	dirFormat  = 1
	probeBytes = 1 << 20 // what must fit on the disk for a start to make sense
)

func openDir(cfg Config) (*dir, error) {
	d := &dir{path: filepath.Join(cfg.Dir, "raft")}
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
	if err := d.probe(); err != nil {
		return nil, diskError(d.path, err)
	}
	used, err := d.readNode(cfg)
	if err != nil {
		return nil, err
	}
	if err := d.openBolt(used); err != nil {
		return nil, err
	}
	if !used {
		d.node = nodeFile{Format: dirFormat, Cluster: cfg.ClusterID, Name: cfg.Name}
		if err := d.writeNode(); err != nil {
			return nil, diskError(d.path, err)
		}
	}
	opened = true
	return d, nil
}

func (d *dir) close() {
	if d.bolt != nil {
		_ = d.bolt.Close() // every write was synced
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

func (d *dir) openBolt(used bool) error {
	path := filepath.Join(d.path, "log.db")
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist) && used:
		return damaged(path, errors.New("it is missing")) // bolt would make a new one
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return diskError(path, err)
	case used && info.Size() == 0:
		return damaged(path, errors.New("it is empty")) // bolt would start over
	case info.Size() > 0:
		file := &boltFile{}
		if err := guarded(path, func() error { return walkBolt(path, info.Size(), file) }); err != nil {
			file.close()
			return err
		}
	}
	file := &boltFile{}
	err := guarded(path, func() (err error) {
		d.bolt, err = raftboltdb.New(raftboltdb.Options{
			Path: path,
			BoltOptions: &bbolt.Options{
				Timeout:  time.Second,
				OpenFile: file.open,
				// Without these each write would also write the list of free
				// pages, which grows with every snapshot.
				NoFreelistSync: true,
				FreelistType:   bbolt.FreelistMapType,
			},
		})
		return err
	})
	if err != nil {
		file.close()
	}
	if err == nil && !used {
		err = guarded(path, func() error {
			if last, err := d.bolt.LastIndex(); err != nil || last > 0 {
				return errors.Join(err, fmt.Errorf("it holds entries, but %s is missing", d.nodePath()))
			}
			return nil
		})
	}
	return err
}

// walkBolt visits every page that bolt is going to read when it opens the file
// for writing. Bolt does that in a goroutine of its own, where a damaged page
// would end the process.
func walkBolt(path string, size int64, file *boltFile) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second, OpenFile: file.open})
	if err != nil {
		return err
	}
	return errors.Join(db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > size {
			return fmt.Errorf("%d of %d bytes are left", size, tx.Size())
		}
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	}), db.Close())
}

// boltFile remembers the file that bolt opens, and locks, because bolt leaves it
// open when it panics.
type boltFile struct{ file *os.File }

func (b *boltFile) open(path string, flag int, mode os.FileMode) (*os.File, error) {
	var err error
	b.file, err = os.OpenFile(path, flag, mode)
	return b.file, err
}

func (b *boltFile) close() {
	if b.file != nil { // often closed already
		_ = unix.Flock(int(b.file.Fd()), unix.LOCK_UN) // the mapping, which stays, would keep the lock
		_ = b.file.Close()
	}
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
	if known := new(damagedError); errors.As(cause, &known) {
		return known
	}
	return &damagedError{path, cause}
}

// diskError says in one line what is wrong with the disk and what helps.
func diskError(path string, err error) error {
	known := new(damagedError)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known
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
