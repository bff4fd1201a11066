package pod

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/proto/agent/fencing"
)

// Fence says whether pods that must not run twice may run here.
type Fence int

const (
	// Open: they may.
	Open Fence = iota
	// Unclear: they are left as they are, and not started.
	Unclear
	// Closed: they are stopped, within fencing.StopGrace. Perhaps they are run
	// elsewhere.
	Closed
)

// SetFence changes what guarded pods may do. It does not block.
func (m *Manager) SetFence(fence Fence) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fence == fence {
		return
	}
	m.fence = fence
	for _, w := range m.workers {
		if !w.guarded() {
			continue
		}
		if fence == Closed && w.interrupt != nil {
			w.interrupt() // it may be waiting for a longer grace
		}
		w.nudge()
	}
}

// guarded says whether the pod must not run twice. What a pod is that nobody
// knows, nobody knows. Manager.mu is held.
func (w *worker) guarded() bool { return w.mode == unknown || fencing.Guards(w.pod) }

// fenced is the fence as it is for this pod, and the grace that is left to it.
// Manager.mu is held.
func (w *worker) fenced() (Fence, time.Duration) {
	switch {
	case !w.guarded():
		return Open, w.grace
	case w.m.fence == Closed:
		return Closed, min(w.grace, fencing.StopGrace)
	}
	return w.m.fence, w.grace
}

// suspend stops what runs of a pod that may go on later.
func (w *worker) suspend(ctx context.Context, pod *corev1.Pod, observed runtime.Pod, grace time.Duration) time.Duration {
	if !active(observed) {
		return -1
	}
	w.memory.probes.keep(nil)
	w.log.Warn("stopping a pod that must not run twice: it may run elsewhere")
	if err := w.endAll(ctx, pod, observed, grace); err != nil {
		return w.retry(ctx, "could not stop a pod", err)
	}
	for _, box := range observed.Sandboxes {
		if err := w.m.cfg.Runtime.StopSandbox(ctx, box.ID); err != nil {
			return w.retry(ctx, "could not stop the sandbox of a pod", err)
		}
	}
	return 0 // see that nothing runs
}

// active says whether anything of the pod runs, or may.
func active(observed runtime.Pod) bool {
	for _, box := range observed.Sandboxes {
		if box.Ready {
			return true
		}
		for _, c := range box.Containers {
			if c.State == runtime.Running || c.State == runtime.Unknown {
				return true
			}
		}
	}
	return false
}
