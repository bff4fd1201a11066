package cri

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A cgroup can't be removed while a process is in it. Those of a container that
// was stopped leave by themselves within leaveWithin. What is left after that is
// nobody's: a start that was given up halfway leaves a `runc init` that waits for
// ever, in no sandbox that the runtime knows. It is killed, and gets goneWithin to
// be reaped on a busy machine.
const (
	leaveWithin = time.Second
	goneWithin  = 5 * time.Second
	busyPause   = 50 * time.Millisecond
)

const cgroupRoot = "/sys/fs/cgroup"

// removeCgroup removes the cgroup of that name, and those below it, from every
// hierarchy, with the processes that stay in it. Callers know that no sandbox of
// the pod is left.
func removeCgroup(ctx context.Context, name string) error {
	err := tryRemoveCgroup(ctx, name, leaveWithin)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	if err := killCgroup(name); err != nil {
		return err
	}
	return tryRemoveCgroup(ctx, name, goneWithin)
}

// tryRemoveCgroup waits that long for processes to leave, for all hierarchies
// together; 0 does not wait. It wraps unix.EBUSY when some are still there.
func tryRemoveCgroup(ctx context.Context, name string, patience time.Duration) error {
	dirs, err := cgroupDirs(name)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	var errs []error
	for _, dir := range dirs {
		errs = append(errs, removeCgroupDir(ctx, dir, deadline))
	}
	return errors.Join(errs...)
}

func removeCgroupDir(ctx context.Context, dir string, deadline time.Time) error {
	for {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || !time.Now().Before(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(busyPause):
		}
	}
}

// killCgroup kills every process in the cgroup of that name and below.
func killCgroup(name string) error {
	dirs, err := cgroupDirs(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("list processes of cgroup %s: %w", dir, err))
		}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil || pid <= 1 {
				continue // 0: of a pid namespace that we don't see
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("kill process %d of cgroup %s: %w", pid, dir, err))
			}
		}
	}
	return errors.Join(errs...)
}

// cgroupDirs lists the cgroup of that name and those below it, deepest first, in
// every hierarchy: one with cgroup v2, one for each controller with v1.
func cgroupDirs(name string) ([]string, error) {
	roots := []string{cgroupRoot}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			roots = append(roots, filepath.Join(cgroupRoot, e.Name()))
		}
	}
	var dirs []string
	for _, root := range roots {
		top := filepath.Join(root, name)
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			} else if err != nil {
				return err
			}
			if d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list cgroup %s: %w", top, err)
		}
	}
	slices.Reverse(dirs)
	return dirs, nil
}
