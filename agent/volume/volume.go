// Package volume makes the directories pods mount: emptyDir, on disk or in
// memory, hostPath, volumes that claims are bound to (hostPath and local), and those that show config maps, secrets, tokens,
// certificates and what the pod itself is like, whose files package pod
// collects. Other kinds it refuses with a reason for the user.
package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Manager keeps pods' own volumes below Dir, which is absolute.
type Manager struct {
	Dir string
	// Volumes, absolute, holds the directories that are volumes of claims, which outlive pods.
	Volumes string
}

// ErrUnsupported is a kind of volume this version does not have.
var ErrUnsupported = errors.New("not supported by this version of muster")

// Setup makes the pod's volumes, or finds those it made before, and answers
// where they are by name. Claimed is asked what a claim of the pod is bound to.
func (m *Manager) Setup(_ context.Context, pod *corev1.Pod, claimed func(*corev1.Volume) (*Claimed, error)) (map[string]string, error) {
	paths := map[string]string{}
	for _, v := range pod.Spec.Volumes {
		var path string
		var err error
		switch {
		case v.EmptyDir != nil:
			path, err = m.emptyDir(pod, v.Name, v.EmptyDir)
		case v.HostPath != nil:
			path, err = v.HostPath.Path, hostPath(v.HostPath)
		case Shows(&v):
			path, err = m.shown(pod, &v)
		case OfClaim(&v):
			path, err = m.persistent(pod, &v, claimed)
		default:
			err = fmt.Errorf("%s volumes are %w", kind(v.VolumeSource), ErrUnsupported)
		}
		if err != nil {
			return nil, fmt.Errorf("volume %q: %w", v.Name, err)
		}
		paths[v.Name] = path
	}
	return paths, nil
}

func (m *Manager) path(pod *corev1.Pod, name string) string {
	return filepath.Join(m.Dir, string(pod.UID), name)
}

// kind names the member of a volume's source that is set, as the API does.
func kind(source any) string {
	v := reflect.ValueOf(source)
	for i := range v.NumField() {
		if !v.Field(i).IsNil() {
			name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "unknown"
}

func (m *Manager) emptyDir(pod *corev1.Pod, name string, source *corev1.EmptyDirVolumeSource) (string, error) {
	path := m.path(pod, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", err
	}
	switch source.Medium {
	case corev1.StorageMediumDefault:
	case corev1.StorageMediumMemory:
		if err := mountMemory(path, source); err != nil {
			return "", err
		}
	default:
		return "", fmt.Errorf("medium %q is %w", source.Medium, ErrUnsupported)
	}
	// Past the umask: any user a container runs as may write.
	mode := os.FileMode(0o777)
	if sc := pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		if err := os.Chown(path, -1, int(*sc.FSGroup)); err != nil {
			return "", err
		}
		mode |= os.ModeSetgid
	}
	return path, os.Chmod(path, mode)
}

func mountMemory(path string, source *corev1.EmptyDirVolumeSource) error {
	mounted, err := isMount(path)
	if err != nil || mounted {
		return err
	}
	options := ""
	if source.SizeLimit != nil && source.SizeLimit.Value() > 0 {
		options = fmt.Sprintf("size=%d", source.SizeLimit.Value())
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, options); err != nil {
		return fmt.Errorf("mount memory at %s: %w", path, err)
	}
	return nil
}

// isMount says whether something is mounted at path.
func isMount(path string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Stat(path, &here); err != nil {
		return false, err
	}
	if err := unix.Stat(filepath.Dir(path), &above); err != nil {
		return false, err
	}
	return here.Dev != above.Dev, nil
}

// Remove takes away the pod's volumes and all that is in them. What the host
// lent stays, and what claims are bound to.
func (m *Manager) Remove(uid types.UID) error {
	dir := filepath.Join(m.Dir, filepath.Base(string(uid)))
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.Type()&os.ModeSymlink != 0 {
			continue // leads to a claim's volume, perhaps on another disk
		}
		mounted, err := isMount(path)
		if err != nil {
			return err
		}
		if mounted {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", path, err)
			}
		}
	}
	return os.RemoveAll(dir)
}

// hostPath checks, or makes, what the pod wants to find on the host.
func hostPath(source *corev1.HostPathVolumeSource) error {
	path, want := source.Path, corev1.HostPathUnset
	if source.Type != nil {
		want = *source.Type
	}
	switch want {
	case corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		if want == corev1.HostPathUnset && errors.Is(err, os.ErrNotExist) {
			return os.MkdirAll(path, 0o755) // what a bind mount would do
		}
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	ok := true
	switch want {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		ok = info.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		ok = info.Mode().IsRegular()
	case corev1.HostPathSocket:
		ok = info.Mode()&os.ModeSocket != 0
	case corev1.HostPathCharDev:
		ok = info.Mode()&os.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		ok = info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", path, want)
	}
	return nil
}
