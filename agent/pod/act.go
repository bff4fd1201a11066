package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/volume"
)

// act does what p says. Whatever it leaves undone, the next plan has again. Its
// error is about the runtime; what is wrong with the pod itself it remembers.
func (w *worker) act(ctx context.Context, s situation, p plan) error {
	for _, victim := range p.stop {
		if err := w.kill(ctx, s.pod, victim.container, graceOf(s.pod, keeping), victim.message); err != nil {
			return err
		}
	}
	rt := w.m.cfg.Runtime
	for _, id := range p.drop {
		if err := w.drop(ctx, s, id); err != nil {
			return err
		}
	}
	for _, id := range p.dropBoxes {
		if err := errors.Join(rt.StopSandbox(ctx, id), rt.RemoveSandbox(ctx, id)); err != nil {
			return err
		}
	}
	if p.newSandbox {
		return w.makeSandbox(ctx, s, p.attempt)
	}
	for _, begin := range p.start {
		if err := w.start(ctx, s, begin); err != nil {
			return err
		}
	}
	return nil
}

// drop forgets an ended container and its log.
func (w *worker) drop(ctx context.Context, s situation, id string) error {
	if err := w.m.cfg.Runtime.RemoveContainer(ctx, id); err != nil {
		return err
	}
	delete(w.memory.messages, id)
	for _, c := range s.runs() {
		if c.ID != id {
			continue
		}
		logs, _ := filepath.Glob(w.logPath(s.pod, c.Name, c.Attempt) + "*")
		for _, log := range append(logs, w.messageFile(c.Name, c.Attempt)) {
			if err := os.Remove(log); err != nil && !errors.Is(err, os.ErrNotExist) {
				w.log.Warn("could not remove a file of a container that is gone", "file", log, "err", err)
			}
		}
	}
	return nil
}

func (w *worker) makeSandbox(ctx context.Context, s situation, attempt uint32) error {
	rt := w.m.cfg.Runtime
	if len(s.observed.Sandboxes) > 0 {
		w.event(s.pod, "", corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	for _, old := range s.observed.Sandboxes {
		// Also of one that is down: its addresses may not have been given back.
		if err := rt.StopSandbox(ctx, old.ID); err != nil {
			return err
		}
	}
	if err := w.setUp(ctx, s.pod); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		message := "MountVolume.SetUp failed: " + err.Error()
		w.event(s.pod, "", corev1.EventTypeWarning, "FailedMount", message)
		w.memory.sandbox = w.memory.sandbox.again(time.Now(), waiting{"CreateContainerConfigError", err.Error()})
		return nil
	}
	config := w.sandboxConfig(s.pod, attempt)
	if _, err := rt.RunSandbox(ctx, config); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		message := "Failed to create pod sandbox: " + err.Error()
		w.event(s.pod, "", corev1.EventTypeWarning, "FailedCreatePodSandBox", message)
		w.memory.sandbox = w.memory.sandbox.again(time.Now(), waiting{"ContainerCreating", ""})
		return nil
	}
	w.memory.sandbox = trouble{}
	return nil
}

// setUp makes the pod's volumes and files, if that was not done since the agent
// started.
func (w *worker) setUp(ctx context.Context, pod *corev1.Pod) error {
	if w.volumes != nil || w.m.cfg.Volumes == nil {
		return nil
	}
	volumes, err := w.m.cfg.Volumes.Setup(ctx, pod, func(v *corev1.Volume) (*volume.Claimed, error) { return w.claimed(pod, v) })
	if err != nil {
		return err
	}
	if err := w.fill(ctx, pod); err != nil {
		return err
	}
	if err := os.MkdirAll(w.filesDir(), 0o755); err != nil {
		return err
	}
	w.volumes = volumes
	return nil
}

// start brings up one container: image, configuration, container, hook.
func (w *worker) start(ctx context.Context, s situation, begin start) error {
	pod, name := s.pod, begin.spec.Name
	box := s.box()
	if err := w.setUp(ctx, pod); err != nil {
		w.hold(name, waiting{"CreateContainerConfigError", err.Error()})
		return nil
	}
	image, trouble := w.ensureImage(ctx, pod, begin.spec)
	if trouble != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		w.memory.trouble[name] = *trouble
		return nil
	}
	config, err := w.containerConfig(pod, begin, image, box)
	if err != nil {
		w.event(pod, name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		w.hold(name, waiting{"CreateContainerConfigError", err.Error()})
		return nil
	}
	rt := w.m.cfg.Runtime
	id, err := rt.CreateContainer(ctx, box.ID, w.sandboxConfig(pod, box.Attempt), config)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, runtime.ErrUnavailable) {
			return err
		}
		w.event(pod, name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		w.hold(name, waiting{"CreateContainerError", err.Error()})
		return nil
	}
	w.event(pod, name, corev1.EventTypeNormal, "Created", "Container created")
	if begin.after != nil {
		w.memory.restarts[name] = begin.next
	}
	if err := rt.StartContainer(ctx, id); err != nil {
		if ctx.Err() != nil || errors.Is(err, runtime.ErrUnavailable) {
			return err
		}
		// The container is there, ended: the plan backs off from it.
		w.event(pod, name, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		w.hold(name, waiting{"RunContainerError", err.Error()})
		return nil
	}
	w.event(pod, name, corev1.EventTypeNormal, "Started", "Container started")
	delete(w.memory.trouble, name)
	if begin.spec.Lifecycle != nil && begin.spec.Lifecycle.PostStart != nil {
		if err := w.hook(ctx, pod, begin.spec, id, begin.spec.Lifecycle.PostStart); err != nil && ctx.Err() == nil {
			w.event(pod, name, corev1.EventTypeWarning, "FailedPostStartHook", fmt.Sprintf("PostStartHook failed: %v", err))
			return w.kill(ctx, pod, runtime.Container{ID: id, Name: name}, graceOf(pod, keeping), "FailedPostStartHook")
		}
	}
	return nil
}

// hold remembers why a container could not be started, and for how long not to
// try again.
func (w *worker) hold(name string, why waiting) {
	w.memory.trouble[name] = w.memory.trouble[name].again(time.Now(), why)
}

func (w *worker) filesDir() string { return filepath.Join(w.m.cfg.Dir, "files", string(w.uid)) }

// messageFile is where a run of a container leaves its last words.
func (w *worker) messageFile(name string, attempt uint32) string {
	return filepath.Join(w.filesDir(), name, fmt.Sprintf("%d.message", attempt))
}

// LogDir is where the logs of a pod's containers are.
func LogDir(dir string, pod *corev1.Pod) string {
	return filepath.Join(dir, "logs", pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

func logName(container string, attempt uint32) string {
	return filepath.Join(container, fmt.Sprintf("%d.log", attempt))
}

func (w *worker) logPath(pod *corev1.Pod, container string, attempt uint32) string {
	return filepath.Join(LogDir(w.m.cfg.Dir, pod), logName(container, attempt))
}
