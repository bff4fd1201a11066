package pod

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// cache keeps what should run on disk: one file for each pod, Kubernetes'
// protobuf bytes, written whole and then renamed.
type cache struct {
	dir      string
	unsynced bool
}

const podSuffix = ".pb"

func (c *cache) load(log *slog.Logger) ([]*corev1.Pod, error) {
	entries, err := os.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("read what should run: %w", err)
	}
	var pods []*corev1.Pod
	for _, e := range entries {
		uid, ok := strings.CutSuffix(e.Name(), podSuffix)
		if !ok {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(c.dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read what should run: %w", err)
		}
		pod := &corev1.Pod{}
		if err := pod.Unmarshal(raw); err != nil || string(pod.UID) != uid {
			// Its containers are found by their labels, and the control plane tells
			// what should become of them.
			log.Warn("ignoring a damaged file of a pod's desired state", "file", e.Name(), "err", err)
			continue
		}
		pods = append(pods, pod)
	}
	return pods, nil
}

func (c *cache) save(pod *corev1.Pod) error {
	raw, err := pod.Marshal()
	if err != nil {
		return err
	}
	err = writeAtomically(c.path(pod.UID), raw, !c.unsynced)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	return writeAtomically(c.path(pod.UID), raw, !c.unsynced)
}

func (c *cache) remove(uid types.UID) error {
	err := os.Remove(c.path(uid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (c *cache) path(uid types.UID) string {
	return filepath.Join(c.dir, filepath.Base(string(uid))+podSuffix)
}

// changed says whether b has something a restarted agent should know that a has
// not: all but the small steps of its status.
func changed(a, b *corev1.Pod) bool {
	x, y := a.ObjectMeta, b.ObjectMeta
	for _, m := range []*metav1.ObjectMeta{&x, &y} {
		m.ResourceVersion, m.ManagedFields = "", nil
	}
	return a.Status.Phase != b.Status.Phase || !equality.Semantic.DeepEqual(x, y) || !equality.Semantic.DeepEqual(a.Spec, b.Spec)
}

func writeAtomically(path string, content []byte, sync bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil && sync {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return err
	}
	if !sync {
		return nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
