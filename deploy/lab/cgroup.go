package lab

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

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
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, root := range cgroupRoots() {
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

// agentCgroup is where agents make the cgroups of pods, below the node's name.
// Agents of several labs share it.
const agentCgroup = "/muster"

// pruneCgroups removes what is empty below a cgroup, and then itself, in every
// hierarchy: what an agent that was killed had no time to remove.
func pruneCgroups(path string) {
	for _, root := range cgroupRoots() {
		for _, dir := range slices.Backward(dirsBelow(filepath.Join(root, path))) {
			_ = unix.Rmdir(dir)
		}
	}
}

// cgroupRoots are the hierarchies: one with cgroup v2, one for each controller
// with v1.
func cgroupRoots() []string {
	candidates := []string{cgroupRoot}
	if entries, err := os.ReadDir(cgroupRoot); err == nil {
		for _, entry := range entries {
			candidates = append(candidates, filepath.Join(cgroupRoot, entry.Name()))
		}
	}
	var roots []string
	for _, dir := range candidates {
		var fs unix.Statfs_t
		// A folder of a v2 hierarchy is one of the hierarchy, not another.
		if err := unix.Statfs(dir, &fs); err == nil && (fs.Type == unix.CGROUP_SUPER_MAGIC || fs.Type == unix.CGROUP2_SUPER_MAGIC) && (dir == cgroupRoot || isMounted(dir)) {
			roots = append(roots, dir)
		}
	}
	return roots
}

// dirsBelow lists a folder and those below it, parents first.
func dirsBelow(dir string) []string {
	var dirs []string
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil // what goes away meanwhile need not be removed
	})
	return dirs
}

// removeTree removes a folder of folders; files in a cgroup go with it. A
// process that was just killed keeps its cgroup busy until it is reaped.
func removeTree(ctx context.Context, dir string) error {
	for _, path := range slices.Backward(dirsBelow(dir)) {
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
