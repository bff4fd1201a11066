//go:build !linux

package wal

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

func (osDisk) Free(dir string) (uint64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return uint64(s.Bavail) * uint64(s.Bsize), nil
}

func (f osFile) Datasync() error { return f.Sync() }

// Allocate makes a file with holes where the system has no fallocate; whoever
// allocates writes all of it before relying on the space.
func (f osFile) Allocate(size int64) error {
	now, err := f.Size()
	if err != nil || now >= size {
		return err
	}
	return f.Truncate(size)
}
