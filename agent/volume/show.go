package volume

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// File is one file of a volume that shows objects of the cluster.
type File struct {
	Data []byte
	Mode int32
	User *int64 // owner; nil: root
}

// Shows says whether a volume shows what the cluster holds: its files come by
// Fill, and it is mounted read-only.
func Shows(v *corev1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// dataLink leads to the directory of the files that are shown now. Names that
// begin with two dots can't be users'.
const dataLink = "..data"

// shown makes the directory of such a volume: in memory, unless it shows a
// config map, which is no secret.
func (m *Manager) shown(pod *corev1.Pod, v *corev1.Volume) (string, error) {
	path := m.path(pod, v.Name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", err
	}
	if v.ConfigMap == nil {
		if err := mountMemory(path, &corev1.EmptyDirVolumeSource{}); err != nil {
			return "", err
		}
	}
	return path, os.Chmod(path, 0o755)
}

// Filled says whether Fill has written the volume, perhaps before the agent
// started.
func (m *Manager) Filled(pod *corev1.Pod, name string) bool {
	_, err := os.Readlink(filepath.Join(m.path(pod, name), dataLink))
	return err == nil
}

// Fill shows files, by their paths, in place of those shown before. Readers see
// all of the old ones or all of the new ones: each name in the volume leads
// through one link, which is replaced.
func (m *Manager) Fill(pod *corev1.Pod, name string, files map[string]File) error {
	root := m.path(pod, name)
	for path := range files {
		if !filepath.IsLocal(path) || strings.HasPrefix(path, "..") || filepath.Clean(path) != path || path == "." {
			return fmt.Errorf("path %q leads out of the volume", path)
		}
	}
	var group *int64
	if sc := pod.Spec.SecurityContext; sc != nil {
		group = sc.FSGroup
	}
	old, err := os.Readlink(filepath.Join(root, dataLink))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if old != "" && same(filepath.Join(root, old), files) {
		return link(root, files)
	}
	now, err := os.MkdirTemp(root, "..files-")
	if err != nil {
		return err
	}
	if err := write(now, files, group); err != nil {
		_ = os.RemoveAll(now)
		return err
	}
	next := filepath.Join(root, "..data_tmp")
	_ = os.Remove(next) // of an agent that was killed here
	if err := os.Symlink(filepath.Base(now), next); err != nil {
		return err
	}
	if err := os.Rename(next, filepath.Join(root, dataLink)); err != nil {
		return err
	}
	if err := link(root, files); err != nil {
		return err
	}
	return sweep(root, filepath.Base(now))
}

// write makes the files below a new directory.
func write(dir string, files map[string]File, group *int64) error {
	if err := own(dir, 0o755, nil, group, true); err != nil {
		return err
	}
	for path, f := range files {
		// Directories on the way, from the top.
		for at, i := "", 0; ; {
			n := strings.IndexByte(path[i:], '/')
			if n < 0 {
				break
			}
			at, i = path[:i+n], i+n+1
			if err := os.Mkdir(filepath.Join(dir, at), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			if err := own(filepath.Join(dir, at), 0o755, nil, group, true); err != nil {
				return err
			}
		}
		to := filepath.Join(dir, path)
		if err := os.WriteFile(to, f.Data, 0o600); err != nil {
			return err
		}
		if err := own(to, os.FileMode(f.Mode), f.User, group, false); err != nil {
			return err
		}
	}
	return nil
}

// own sets mode and owners past the umask. The pod's group, if it has one, may
// read, and owns what is made below directories.
func own(path string, mode os.FileMode, user, group *int64, dir bool) error {
	mode &= 0o777
	uid, gid := -1, -1
	if user != nil {
		uid = int(*user)
	}
	if group != nil {
		gid = int(*group)
		if mode |= 0o440; dir {
			mode |= 0o110 | os.ModeSetgid
		}
	}
	if uid >= 0 || gid >= 0 {
		if err := os.Lchown(path, uid, gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

// same says whether a directory holds these files with these contents, and no
// others.
func same(dir string, files map[string]File) bool {
	found := 0
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, ok := files[filepath.ToSlash(name)]
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !ok || !bytes.Equal(data, want.Data) {
			return errDiffers
		}
		found++
		return nil
	})
	return err == nil && found == len(files)
}

var errDiffers = errors.New("differs")

// link makes the names that users see: the first part of each path leads
// through dataLink.
func link(root string, files map[string]File) error {
	for path := range files {
		first, _, _ := strings.Cut(path, "/")
		name := filepath.Join(root, first)
		if _, err := os.Lstat(name); err == nil {
			continue
		}
		if err := os.Symlink(filepath.Join(dataLink, first), name); err != nil {
			return err
		}
	}
	return nil
}

// sweep removes names that lead nowhere, and directories of files that are not
// shown any more.
func sweep(root, now string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(root, e.Name())
		switch {
		case e.Name() == dataLink, e.Name() == now:
		case strings.HasPrefix(e.Name(), ".."):
			err = errors.Join(err, os.RemoveAll(path))
		default:
			if _, missing := os.Stat(path); errors.Is(missing, os.ErrNotExist) {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}
	return err
}
