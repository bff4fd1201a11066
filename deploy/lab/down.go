package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Down removes every trace of the lab: processes, mounts, namespaces, the
// interface, cgroups and the folder. It works on whatever is there, also after
// an Up that failed half way, and is no error when nothing is.
func (l *Lab) Down(ctx context.Context) error {
	unlock, err := exclusive(ctx, l.Name)
	if err != nil {
		return err
	}
	defer unlock()
	var errs []error
	cgroups := map[string]bool{}
	for _, h := range l.Hosts {
		h.collectCgroups(cgroups)
		errs = append(errs, h.Kill(ctx))
	}
	// With the last mount namespace go the mounts that were made in it.
	for _, h := range l.Hosts {
		errs = append(errs, unpin(h.mntnsFile()))
	}
	errs = append(errs, unpin(l.pinDir()))
	for _, point := range mountsBelow(l.Dir) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			errs = append(errs, &fs.PathError{Op: "unmount", Path: point, Err: err})
		}
	}
	errs = append(errs, l.removeNetwork(ctx), removeCgroups(ctx, cgroups))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("the lab in %s is not wholly down: %w", l.Dir, err)
	}
	return l.removeDir(ctx)
}

// removeDir removes the lab's folder, last, so that a Down that fails can be
// repeated with all it needs to know.
func (l *Lab) removeDir(ctx context.Context) error {
	if _, err := os.Stat(l.settingsFile()); errors.Is(err, fs.ErrNotExist) {
		// Not a lab's folder, or one that is empty but for the settings.
		if err := os.Remove(l.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is no lab's folder: %w", l.Dir, err)
		}
		return nil
	}
	for {
		// A namespace that is on its way out may hold a folder for a moment.
		err := os.RemoveAll(l.Dir)
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

const cgroupRoot = "/sys/fs/cgroup"

// collectCgroups notes the cgroups of the host's containers and of their pods,
// those of containers that are dead already included.
func (h *Host) collectCgroups(into map[string]bool) {
	bundles, err := os.ReadDir(h.bundles())
	if err != nil {
		return // it never ran any
	}
	for _, bundle := range bundles {
		spec, err := readSpec(filepath.Join(h.bundles(), bundle.Name()))
		if err != nil || !filepath.IsAbs(spec.Linux.CgroupsPath) {
			continue
		}
		// The container's own is below its pod's, and that below the agent's.
		if pod := filepath.Dir(spec.Linux.CgroupsPath); pod != "/" {
			into[pod] = true
		}
	}
}

// removeCgroups removes the cgroups of these paths from every hierarchy, with
// what is below them and with parents that are empty then. The kernel lets
// nobody remove one that has processes, so others' are safe.
func removeCgroups(ctx context.Context, paths map[string]bool) error {
	roots := []string{cgroupRoot} // cgroup v2
	if entries, err := os.ReadDir(cgroupRoot); err == nil {
		for _, entry := range entries { // v1: one for each controller
			roots = append(roots, filepath.Join(cgroupRoot, entry.Name()))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, root := range roots {
		var fs unix.Statfs_t
		if err := unix.Statfs(root, &fs); err != nil || (fs.Type != unix.CGROUP_SUPER_MAGIC && fs.Type != unix.CGROUP2_SUPER_MAGIC) {
			continue
		}
		for path := range paths {
			if err := removeTree(ctx, filepath.Join(root, path)); err != nil {
				return err
			}
			for parent := filepath.Dir(path); parent != "/" && parent != "."; parent = filepath.Dir(parent) {
				if os.Remove(filepath.Join(root, parent)) != nil {
					break
				}
			}
		}
	}
	return nil
}

// removeTree removes a folder of folders; files in a cgroup go with it. A
// process that was just killed keeps its cgroup busy until it is reaped.
func removeTree(ctx context.Context, dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, path := range slices.Backward(dirs) {
		for {
			err := unix.Rmdir(path)
			if err == nil || errors.Is(err, unix.ENOENT) {
				break
			}
			if !errors.Is(err, unix.EBUSY) || ctx.Err() != nil {
				return &fs.PathError{Op: "remove cgroup", Path: path, Err: err}
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}
