// Package wal keeps raft's log and its term and vote on a disk: each append is
// one write and one fdatasync, a torn tail is told from damage, and a full disk
// refuses an append before anything of it is written. What entries mean, and
// what a node does about a failing disk, is consensus' business.
package wal

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Disk is what the log needs of a file system. OS is the machine's; tests put
// failing ones in its place. Methods are called from several goroutines.
type Disk interface {
	OpenFile(name string, flag int, perm fs.FileMode) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	ReadDir(name string) ([]fs.DirEntry, error)
	// SyncDir makes what was created, renamed and removed in a directory durable.
	SyncDir(name string) error
	// Free is what this process may still write below dir, in bytes.
	Free(dir string) (bytes uint64, err error)
}

// File is an open file. It has no position.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Datasync is fdatasync. After an error nothing is known of what was
	// written since the last success, and a repeated call may succeed without
	// the data being on the disk (PostgreSQL's "fsyncgate").
	Datasync() error
	// Allocate makes the file at least size bytes, with the space for them taken.
	// ENOSPC leaves it as it was.
	Allocate(size int64) error
	Truncate(size int64) error
	Size() (int64, error)
}

// OS is the file system of the machine.
var OS Disk = osDisk{}

type osDisk struct{}

func (osDisk) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osDisk) Rename(from, to string) error               { return os.Rename(from, to) }
func (osDisk) Remove(name string) error                   { return os.Remove(name) }
func (osDisk) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }

func (osDisk) SyncDir(name string) error {
	f, err := os.Open(filepath.Clean(name))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
