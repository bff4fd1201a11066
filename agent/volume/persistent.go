package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Claimed is the volume that a claim is bound to.
type Claimed struct {
	Volume *corev1.PersistentVolume
	// Directory: it is one below Manager.Volumes, which is made if it is not there.
	Directory bool
}

// OfClaim says whether a volume is what a claim is bound to.
func OfClaim(v *corev1.Volume) bool { return v.PersistentVolumeClaim != nil || v.Ephemeral != nil }

// persistent finds where a claim's volume is. A link in the pod's own directory
// remembers it, so that nobody need be asked again and nobody deletes it under the
// pod. Claimed is not called where there is one.
func (m *Manager) persistent(pod *corev1.Pod, v *corev1.Volume, claimed func(*corev1.Volume) (*Claimed, error)) (string, error) {
	link := m.path(pod, v.Name)
	if path, err := os.Readlink(link); err == nil {
		if _, err := os.Stat(path); err != nil {
			return "", err
		}
		return path, nil
	}
	c, err := claimed(v)
	if err != nil {
		return "", err
	}
	path, err := m.locate(c)
	if err != nil {
		return "", fmt.Errorf("persistent volume %q: %w", c.Volume.Name, err)
	}
	if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
		return "", err
	}
	// The link before the owners: who mends them must not meet who deletes.
	if err := os.Symlink(path, link); err != nil {
		return "", err
	}
	if c.Volume.Spec.Local != nil {
		if err := lend(path, pod); err != nil {
			_ = os.Remove(link)
			return "", fmt.Errorf("persistent volume %q: give it to the pod's group: %w", c.Volume.Name, err)
		}
	}
	return path, nil
}

// Release gives back what the pod's claims are bound to, once nothing of it will run
// again: it may be reclaimed while the pod is still there to be looked at.
func (m *Manager) Release(uid types.UID) error {
	dir := filepath.Join(m.Dir, filepath.Base(string(uid)))
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink != 0 {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

func (m *Manager) locate(c *Claimed) (string, error) {
	spec := &c.Volume.Spec
	if spec.VolumeMode != nil && *spec.VolumeMode == corev1.PersistentVolumeBlock {
		return "", fmt.Errorf("block devices are %w", ErrUnsupported)
	}
	switch {
	case spec.HostPath != nil:
		return spec.HostPath.Path, hostPath(spec.HostPath)
	case spec.Local != nil && c.Directory:
		return spec.Local.Path, m.makeDirectory(spec.Local.Path)
	case spec.Local != nil:
		info, err := os.Stat(spec.Local.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("path %q does not exist", spec.Local.Path)
		case err != nil:
			return "", err
		case !info.IsDir():
			return "", fmt.Errorf("path %q is not a directory: devices are %w", spec.Local.Path, ErrUnsupported)
		}
		return spec.Local.Path, nil
	}
	return "", fmt.Errorf("%s volumes are %w", kind(spec.PersistentVolumeSource), ErrUnsupported)
}

// name of a directory that is, or is to be, a volume of ours: one below m.Volumes.
func (m *Manager) name(path string) (string, error) {
	name := filepath.Base(path)
	if m.Volumes == "" || filepath.Dir(path) != m.Volumes || filepath.Clean(path) != path || strings.HasPrefix(name, ".") {
		return "", fmt.Errorf("%q is not a directory of this node's volumes, which are in %q", path, m.Volumes)
	}
	return name, nil
}

// makeDirectory makes a volume that any user may write to.
func (m *Manager) makeDirectory(path string) error {
	if _, err := m.name(path); err != nil {
		return err
	}
	if err := os.MkdirAll(m.Volumes, 0o711); err != nil {
		return err
	}
	err := os.Mkdir(path, 0o777)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(path, 0o777) // past the umask
}

// lend lets the pod's group, if it has one, read and write all of a volume.
func lend(path string, pod *corev1.Pod) error {
	sc := pod.Spec.SecurityContext
	if sc == nil || sc.FSGroup == nil {
		return nil
	}
	group := int(*sc.FSGroup)
	if policy := sc.FSGroupChangePolicy; policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch {
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Gid) == group && info.Mode()&fs.ModeSetgid != 0 && info.Mode().Perm()&0o070 == 0o070 {
			return nil
		}
	}
	// The root last: it tells whether all of it was done.
	return walkUp(path, func(path string, info fs.FileInfo) error {
		if info.Mode()&fs.ModeSymlink != 0 {
			return os.Lchown(path, -1, group)
		}
		mode := info.Mode() | 0o660
		if info.IsDir() {
			mode |= fs.ModeSetgid | 0o110
		}
		if err := os.Lchown(path, -1, group); err != nil {
			return err
		}
		return os.Chmod(path, mode)
	})
}

// walkUp calls do for all below path, and then for path. What has gone meanwhile is
// passed over.
func walkUp(path string, do func(string, fs.FileInfo) error) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if info.IsDir() {
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := walkUp(filepath.Join(path, e.Name()), do); err != nil {
				return err
			}
		}
	}
	return do(path, info)
}
