package wal

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

func (osDisk) Free(dir string) (uint64, error) {
	var s unix.Statfs_t
	if err := restarted(func() error { return unix.Statfs(dir, &s) }); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return s.Bavail * uint64(s.Bsize), nil
}

func (f osFile) Datasync() error {
	return f.call("fdatasync", unix.Fdatasync)
}

func (f osFile) Allocate(size int64) error {
	return f.call("fallocate", func(fd int) error { return unix.Fallocate(fd, 0, 0, size) })
}

func (f osFile) call(name string, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = restarted(func() error { return do(int(fd)) })
	}); err != nil {
		return err
	}
	if failed != nil {
		return &fs.PathError{Op: name, Path: f.Name(), Err: failed}
	}
	return nil
}

// restarted makes a call again that a signal interrupted.
func restarted(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
