package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/agent/runtime"
)

// finish ends a pod: its containers within their grace, then all that was made
// for it.
func (w *worker) finish(ctx context.Context, pod *corev1.Pod, observed runtime.Pod, how mode, grace time.Duration) (time.Duration, bool) {
	if !w.cleaned {
		w.memory.probes.keep(nil)
		if err := w.endAll(ctx, pod, observed, grace); err != nil {
			return w.retry(ctx, "could not stop a pod", err), false
		}
		w.m.mu.Lock()
		w.stopped = true // before others are given its place
		w.m.mu.Unlock()
		if how == terminating && len(observed.Sandboxes) > 0 {
			// Once more, to say how its containers ended.
			observed, err := w.m.cfg.Runtime.Pod(ctx, string(w.uid))
			if err != nil {
				return w.retry(ctx, "could not look at a stopped pod", err), false
			}
			w.remember(ctx, pod, observed)
			s := situation{pod: pod, observed: observed, memory: w.memory, now: time.Now()}
			w.voice.now(statusOf(s, plan{ended: true}, w.m.cfg.Node(), w.voice.said()))
		}
		if err := w.clean(ctx, pod, observed); err != nil {
			return w.retry(ctx, "could not clean up after a pod", err), false
		}
		w.cleaned = true
	}
	reporter := w.m.cfg.Reporter
	if how == removing {
		reporter.Forget(w.uid)
		return 0, true
	}
	if wait := time.Until(w.saidAt.Add(goneEvery)); !w.saidAt.IsZero() && wait > 0 {
		return wait, false
	}
	w.saidAt = time.Now()
	reporter.Gone(pod.Namespace, pod.Name, pod.UID)
	return goneEvery, false
}

// retry says how long to wait after err: not at all when something more urgent
// cut the attempt short.
func (w *worker) retry(ctx context.Context, what string, err error) time.Duration {
	if ctx.Err() != nil {
		return 0
	}
	w.log.Warn(what, "err", err)
	return failEvery
}

// endPod ends what a finished pod still runs, its sidecars, and answers the
// status to remember it by.
func (w *worker) endPod(ctx context.Context, s situation, p plan) (*corev1.PodStatus, error) {
	if err := w.endAll(ctx, s.pod, s.observed, graceOf(s.pod, keeping)); err != nil {
		return nil, err
	}
	observed, err := w.m.cfg.Runtime.Pod(ctx, string(w.uid))
	if err != nil {
		return nil, err
	}
	w.remember(ctx, s.pod, observed)
	s.observed, s.now = observed, time.Now()
	return statusOf(s, p, w.m.cfg.Node(), w.voice.said()), nil
}

// endAll stops all containers: those proper together, then the sidecars in
// reverse order, all within one grace.
func (w *worker) endAll(ctx context.Context, pod *corev1.Pod, observed runtime.Pod, grace time.Duration) error {
	began := time.Now()
	left := func() time.Duration { return max(grace-time.Since(began), 0) }
	var sidecars []runtime.Container
	group, together := errgroup.WithContext(ctx)
	for _, box := range observed.Sandboxes {
		for _, c := range box.Containers {
			if c.State != runtime.Running && c.State != runtime.Unknown {
				continue
			}
			if sidecarIndex(pod, c.Name) >= 0 {
				sidecars = append(sidecars, c)
				continue
			}
			group.Go(func() error {
				return w.kill(together, pod, c, grace, "Stopping container "+c.Name)
			})
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	slices.SortFunc(sidecars, func(a, b runtime.Container) int { return sidecarIndex(pod, b.Name) - sidecarIndex(pod, a.Name) })
	for _, c := range sidecars {
		if err := w.kill(ctx, pod, c, left(), "Stopping container "+c.Name); err != nil {
			return err
		}
	}
	return nil
}

func sidecarIndex(pod *corev1.Pod, name string) int {
	return slices.IndexFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == name && sidecar(&c) })
}

// kill stops one container: its preStop hook, SIGTERM, and SIGKILL when the
// grace is over. The hook's time counts, but leaves two seconds.
func (w *worker) kill(ctx context.Context, pod *corev1.Pod, c runtime.Container, grace time.Duration, message string) error {
	w.event(pod, c.Name, corev1.EventTypeNormal, "Killing", message)
	began := time.Now()
	if spec := specOf(pod, c.Name); spec != nil && spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil && c.State == runtime.Running && grace > removeGrace {
		limit, cancel := context.WithTimeout(ctx, grace)
		err := w.hook(limit, pod, spec, c.ID, spec.Lifecycle.PreStop)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			w.event(pod, c.Name, corev1.EventTypeWarning, "FailedPreStopHook", fmt.Sprintf("PreStopHook failed: %v", err))
		}
		grace = max(grace-time.Since(began), 2*time.Second)
	}
	return w.m.cfg.Runtime.StopContainer(ctx, c.ID, grace)
}

func specOf(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// clean removes all that was made for the pod, its file on disk last: until
// then a restarted agent begins again.
func (w *worker) clean(ctx context.Context, pod *corev1.Pod, observed runtime.Pod) error {
	rt := w.m.cfg.Runtime
	for _, box := range observed.Sandboxes {
		if err := rt.StopSandbox(ctx, box.ID); err != nil {
			return err
		}
		if err := rt.RemoveSandbox(ctx, box.ID); err != nil {
			return err
		}
	}
	var errs []error
	if w.m.cfg.Volumes != nil {
		errs = append(errs, w.m.cfg.Volumes.Remove(w.uid))
	}
	errs = append(errs, os.RemoveAll(w.filesDir()), os.RemoveAll(LogDir(w.m.cfg.Dir, pod)), w.m.cache.remove(w.uid))
	return errors.Join(errs...)
}
