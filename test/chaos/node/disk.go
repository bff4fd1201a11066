package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/musterhq/muster/consensus/wal"
)

// disk is the machine's, with a cache that is lost with the process: what was
// written and not synced is in memory only. Killing the process is thus what
// pulling the plug is to a machine, where the kernel would keep what a killed
// process has written. It fails as it is told to.
type disk struct {
	wal.Disk

	mu      sync.Mutex
	healed  chan struct{} // closed when a hung disk goes on; nil: none hangs
	slow    time.Duration // that much more for each sync
	full    bool          // ENOSPC for whatever takes more room
	failing bool          // EIO for each sync
	used    bool          // a file was opened through it
}

func newDisk() *disk { return &disk{Disk: wal.OS} }

// set makes the disk "ok", "hung", "full", "failing" or slower by a duration.
func (d *disk) set(what string) error {
	var slow time.Duration
	switch what {
	case "ok", "hung", "full", "failing":
	default:
		var err error
		if slow, err = time.ParseDuration(what); err != nil {
			return fmt.Errorf("disk %q: want ok, hung, full, failing or a duration", what)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.used {
		return errors.New("disk: the node keeps nothing on it, so that no fault of it is felt")
	}
	if d.healed != nil {
		close(d.healed)
		d.healed = nil
	}
	if what == "hung" {
		d.healed = make(chan struct{})
	}
	d.slow, d.full, d.failing = slow, what == "full", what == "failing"
	return nil
}

// sync is what becomes of a sync before it reaches the disk. It blocks while
// the disk hangs.
func (d *disk) sync() error {
	d.mu.Lock()
	healed, slow := d.healed, d.slow
	d.mu.Unlock()
	if healed != nil {
		<-healed
	}
	time.Sleep(slow)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failing {
		return syscall.EIO
	}
	return nil
}

func (d *disk) room() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full {
		return syscall.ENOSPC
	}
	return nil
}

func (d *disk) Free(dir string) (uint64, error) {
	if d.room() != nil {
		return 0, nil
	}
	return d.Disk.Free(dir)
}

func (d *disk) SyncDir(name string) error {
	if err := d.sync(); err != nil {
		return &fs.PathError{Op: "sync", Path: name, Err: err}
	}
	return d.Disk.SyncDir(name)
}

func (d *disk) OpenFile(name string, flag int, perm fs.FileMode) (wal.File, error) {
	f, err := d.Disk.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.used = true
	d.mu.Unlock()
	return &file{File: f, name: name, disk: d}, nil
}

// file keeps what is written until it is synced.
type file struct {
	wal.File
	name string
	disk *disk

	mu     sync.RWMutex
	writes []write // in the order in which they came
}

type write struct {
	at    int64
	bytes []byte
}

func (f *file) WriteAt(p []byte, at int64) (int, error) {
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	if at+int64(len(p)) > size {
		if err := f.disk.room(); err != nil {
			return 0, &fs.PathError{Op: "write", Path: f.name, Err: err}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes = append(f.writes, write{at, slices.Clone(p)})
	return len(p), nil
}

func (f *file) ReadAt(p []byte, at int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	n, err := f.File.ReadAt(p, at)
	if err != nil && err != io.EOF {
		return n, err
	}
	clear(p[n:])
	for _, w := range f.writes {
		from, to := max(at, w.at), min(at+int64(len(p)), w.at+int64(len(w.bytes)))
		if from < to {
			copy(p[from-at:to-at], w.bytes[from-w.at:to-w.at])
			n = max(n, int(to-at))
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Size is that which the file has with what is not yet synced.
func (f *file) Size() (int64, error) {
	size, err := f.File.Size()
	f.mu.RLock()
	defer f.mu.RUnlock()
	for _, w := range f.writes {
		size = max(size, w.at+int64(len(w.bytes)))
	}
	return size, err
}

func (f *file) Allocate(size int64) error {
	have, err := f.Size()
	if err != nil {
		return err
	}
	if size > have {
		if err := f.disk.room(); err != nil {
			return &fs.PathError{Op: "allocate", Path: f.name, Err: err}
		}
	}
	return f.File.Allocate(size)
}

func (f *file) Truncate(size int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	kept := f.writes[:0]
	for _, w := range f.writes {
		if room := size - w.at; room > 0 {
			w.bytes = w.bytes[:min(int64(len(w.bytes)), room)]
			kept = append(kept, w)
		}
	}
	f.writes = kept
	return f.File.Truncate(size)
}

// Datasync writes what was kept, and syncs nothing: the machine is not what
// fails here. After a failed one what was written is gone, as it may be when
// the kernel has thrown a dirty page away.
func (f *file) Datasync() error {
	f.mu.RLock()
	count := len(f.writes)
	f.mu.RUnlock()
	failed := f.disk.sync()
	f.mu.Lock()
	defer f.mu.Unlock()
	count = min(count, len(f.writes))
	due := f.writes[:count]
	f.writes = slices.Clone(f.writes[count:])
	if failed != nil {
		return &fs.PathError{Op: "fdatasync", Path: f.name, Err: failed}
	}
	return f.through(due)
}

// Close does not sync; as with the kernel, who opens the file again reads what
// was written all the same.
func (f *file) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.through(f.writes)
	f.writes = nil
	return errors.Join(err, f.File.Close())
}

func (f *file) through(writes []write) error {
	for _, w := range writes {
		if _, err := f.File.WriteAt(w.bytes, w.at); err != nil {
			return err
		}
	}
	return nil
}
