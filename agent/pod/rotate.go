package pod

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/runtime/logs"
)

const rotateEvery = 10 * time.Second

// rotateLogs bounds the logs of running containers.
func (m *Manager) rotateLogs(ctx context.Context) error {
	tick := time.NewTicker(rotateEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		found, err := m.cfg.Runtime.Pods(ctx)
		if err != nil {
			continue
		}
		for _, p := range found {
			m.rotatePod(ctx, p)
		}
	}
}

func (m *Manager) rotatePod(ctx context.Context, p runtime.Pod) {
	for _, box := range p.Sandboxes {
		for _, c := range box.Containers {
			if c.State != runtime.Running {
				continue
			}
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name, UID: types.UID(p.UID)}}
			path := filepath.Join(LogDir(m.cfg.Dir, pod), logName(c.Name, c.Attempt))
			err := logs.Rotate(path, logs.DefaultLimits, time.Now(), func() error { return m.cfg.Runtime.ReopenLog(ctx, c.ID) })
			if err != nil && ctx.Err() == nil {
				m.log.Warn("could not rotate a container's log", "log", path, "err", err)
			}
		}
	}
}

func readUpTo(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}
