package pod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/volume"
)

// mode is what is to become of a pod. It only grows.
type mode int

const (
	unknown     mode = iota // it runs, and nobody has said whether it should
	keeping                 // it should run
	terminating             // it is being deleted: end it within its grace
	removing                // it does not exist: end it at once
)

const (
	// removeGrace is what containers get of pods that do not exist any more.
	removeGrace = time.Second
	// goneEvery is how often it is said again that a deleted pod is gone, until
	// its object is.
	goneEvery = 10 * time.Second
	// failEvery is the pause after an attempt that failed as a whole.
	failEvery = time.Second
)

func modeOf(pod *corev1.Pod) mode {
	if pod.DeletionTimestamp != nil {
		return terminating
	}
	return keeping
}

// worker keeps one pod. Its run is one goroutine; the fields above the line are
// the manager's, below its mu.
type worker struct {
	m    *Manager
	key  types.NamespacedName
	uid  types.UID
	wake chan struct{}
	done chan struct{} // closed when nothing of the pod is left
	log  *slog.Logger

	pod       *corev1.Pod
	mode      mode
	grace     time.Duration
	interrupt context.CancelFunc // ends what run is doing, for something more urgent
	confirmed bool               // by the control plane, since the agent started
	next      *corev1.Pod
	after     *worker // of an older pod of the same name
	stale     bool    // what its volumes show may be out of date
	// admitted: it was asked whether the pod fits here; asked is since when it does
	// not. stopped: nothing of it runs any more, it only waits to be taken away.
	admitted, stopped bool
	asked             time.Time
	// end is the pod's last status once it has finished or was refused, whether
	// the control plane has it yet or not.
	end *corev1.PodStatus

	// ---- run's own

	life    context.Context // run's
	memory  *memory
	volumes map[string]string // where they are, by name, once set up
	tokens  held
	keys    map[string]*keyPair // of certificates in volumes, by volume and source
	// refillAt is when what volumes show is to be brought up to date; zero: when
	// something changes.
	refillAt time.Time
	voice    *voice
	saidAt   time.Time // when Gone was said
	cleaned  bool
}

func newWorker(m *Manager, pod *corev1.Pod, how mode) *worker {
	key := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	w := &worker{
		m: m, key: key, uid: pod.UID, pod: pod, mode: how, grace: graceOf(pod, how),
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		memory: newMemory(), log: m.log.With("pod", key.String()), admitted: true,
	}
	w.voice = &voice{tell: w.tell}
	if over(pod.Status.Phase) {
		w.end = &pod.Status
	}
	return w
}

func over(phase corev1.PodPhase) bool {
	return phase == corev1.PodSucceeded || phase == corev1.PodFailed
}

// ended is the pod as the control plane has it with the end that it may not have
// heard of yet. Manager.mu is held.
func (w *worker) ended(pod *corev1.Pod) *corev1.Pod {
	if w.end == nil || over(pod.Status.Phase) {
		return pod
	}
	pod = pod.DeepCopy()
	pod.Status = *w.end
	return pod
}

func graceOf(pod *corev1.Pod, how mode) time.Duration {
	switch {
	case how == removing:
		return removeGrace
	case pod.DeletionGracePeriodSeconds != nil:
		return max(time.Duration(*pod.DeletionGracePeriodSeconds)*time.Second, removeGrace)
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		return max(time.Duration(*pod.Spec.TerminationGracePeriodSeconds)*time.Second, removeGrace)
	}
	return corev1.DefaultTerminationGracePeriodSeconds * time.Second
}

// put changes what should be. Manager.mu is held.
func (w *worker) put(pod *corev1.Pod, how mode) {
	w.pod, w.stale = pod, true // its labels may be shown
	if grace := graceOf(pod, how); how > w.mode || how == w.mode && how >= terminating && grace < w.grace {
		w.mode, w.grace = how, grace
		if w.interrupt != nil {
			w.interrupt()
		}
	}
	w.nudge()
}

func (w *worker) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run works until nothing of the pod is left and nobody wants it, or ctx ends.
func (w *worker) run(ctx context.Context) {
	w.life = ctx
	defer w.memory.probes.end()
	defer w.voice.end()
	for w.after != nil { // set before run or never
		select {
		case <-w.after.done:
			w.after = nil
		case <-ctx.Done():
			return
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
		again, gone := w.step(ctx)
		if gone {
			return
		}
		if again >= 0 {
			timer.Reset(again)
		} else {
			timer.Stop()
		}
	}
}

// step looks once and acts once. It answers how long to wait for the next look
// (negative: until something happens), and whether the pod is gone for good.
func (w *worker) step(ctx context.Context) (again time.Duration, gone bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.m.mu.Lock()
	pod, how, unsure := w.pod, w.mode, w.m.unsure(w)
	fence, grace := w.fenced()
	w.interrupt = cancel
	w.m.mu.Unlock()

	observed, err := w.m.cfg.Runtime.Pod(ctx, string(w.uid))
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, runtime.ErrUnavailable) {
			w.log.Warn("could not look at a pod", "err", err)
		}
		return failEvery, false
	}
	switch how {
	case unknown:
		if fence == Closed {
			return w.suspend(ctx, pod, observed, grace), false
		}
		return -1, false
	case terminating, removing:
		return w.finish(ctx, pod, observed, how, grace)
	}
	if fence == Closed {
		return w.suspend(ctx, pod, observed, grace), false
	}
	if fence == Unclear && !runs(observed) {
		return -1, false
	}
	if unsure > 0 && !runs(observed) {
		return unsure, false
	}
	if admitted, again := w.m.admit(w); !admitted {
		return again, false
	}
	return w.keep(ctx, pod, observed), false
}

// runs says whether the pod has what it needs to go on.
func runs(observed runtime.Pod) bool {
	return len(observed.Sandboxes) > 0 && observed.Sandboxes[0].Ready
}

// keep does what the plan says.
func (w *worker) keep(ctx context.Context, pod *corev1.Pod, observed runtime.Pod) time.Duration {
	w.remember(ctx, pod, observed)
	s := situation{pod: pod, observed: observed, memory: w.memory, now: time.Now()}
	if final := w.final(pod); final {
		return w.rest(ctx, pod, observed)
	}
	p := decide(s)
	if p.finished {
		status, err := w.endPod(ctx, s, p)
		if err != nil {
			return w.retry(ctx, "could not end a finished pod", err)
		}
		w.saveFinal(pod, status) // before others are given its place
		w.voice.now(status)
		return 0
	}
	w.tellBackOffs(s, p)
	status := statusOf(s, p, w.m.cfg.Node(), w.voice.said())
	if p.empty() {
		w.voice.now(status)
	} else {
		w.voice.soon(status)
	}
	if err := w.act(ctx, s, p); err != nil {
		return w.retry(ctx, "pod is not as it should be yet", err)
	}
	if !p.empty() {
		return 0
	}
	w.refresh(ctx, pod)
	wake := p.wake
	if !w.refillAt.IsZero() && (wake.IsZero() || w.refillAt.Before(wake)) {
		wake = w.refillAt
	}
	if wake.IsZero() {
		return -1
	}
	return max(time.Until(wake), 0)
}

// refresh brings up to date what the volumes of a running pod show, if
// something may have changed.
func (w *worker) refresh(ctx context.Context, pod *corev1.Pod) {
	w.m.mu.Lock()
	stale := w.stale
	w.stale = false
	w.m.mu.Unlock()
	due := !w.refillAt.IsZero() && !time.Now().Before(w.refillAt)
	if w.m.cfg.Contents == nil || !stale && !due || !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return volume.Shows(&v) }) {
		return
	}
	var err error
	if w.volumes == nil { // they were set up before the agent started
		err = w.setUp(ctx, pod)
	} else {
		err = w.fill(ctx, pod)
	}
	if err != nil && ctx.Err() == nil {
		w.log.Debug("what a pod's volumes show was not brought up to date", "err", err)
		w.refill(time.Now().Add(refillAfter))
	}
}

// final says whether the pod's end has been said: it is never run again.
func (w *worker) final(pod *corev1.Pod) bool {
	for _, s := range []*corev1.PodStatus{w.voice.said(), &pod.Status} {
		if s != nil && over(s.Phase) {
			return true
		}
	}
	return false
}

// rest leaves a finished pod without anything running; its containers stay, to
// be read of.
func (w *worker) rest(ctx context.Context, pod *corev1.Pod, observed runtime.Pod) time.Duration {
	if w.voice.said() == nil { // by an earlier run of the agent, perhaps to nobody
		w.voice.now(&pod.Status)
	}
	for _, box := range observed.Sandboxes {
		if !active(runtime.Pod{Sandboxes: []runtime.Sandbox{box}}) {
			continue
		}
		if err := w.m.cfg.Runtime.StopSandbox(ctx, box.ID); err != nil {
			return w.retry(ctx, "could not stop the sandbox of a finished pod", err)
		}
	}
	if w.m.cfg.Volumes != nil {
		// A claim may go that only finished pods use, and its volume with it.
		if err := w.m.cfg.Volumes.Release(w.uid); err != nil {
			return w.retry(ctx, "could not give back the volumes of a finished pod", err)
		}
	}
	return -1
}

// remember takes note of what is seen for the first time.
func (w *worker) remember(ctx context.Context, pod *corev1.Pod, observed runtime.Pod) {
	m := w.memory
	if m.startTime == nil {
		m.startTime = pod.Status.StartTime
	}
	if m.startTime == nil {
		now := metav1.NewTime(time.Now().Truncate(time.Second))
		m.startTime = &now
	}
	for i := range observed.Sandboxes {
		for j := range observed.Sandboxes[i].Containers {
			c := &observed.Sandboxes[i].Containers[j]
			if c.State != runtime.Exited {
				continue
			}
			message, known := m.messages[c.ID]
			if !known {
				message = w.lastMessage(ctx, pod, c)
				m.messages[c.ID] = message
			}
			if message != "" {
				c.Message = message
			}
		}
	}
	w.probe(pod, observed)
}

// tell is how voice speaks.
func (w *worker) tell(status *corev1.PodStatus) {
	w.m.mu.Lock()
	pod := w.pod
	w.m.mu.Unlock()
	w.m.cfg.Reporter.Status(pod, status)
}

// saveFinal keeps a finished pod's end on disk, so that it is not run again
// after a restart that loses the containers.
func (w *worker) saveFinal(pod *corev1.Pod, status *corev1.PodStatus) {
	pod = pod.DeepCopy()
	pod.Status = *status
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	w.end = status
	w.m.save(pod)
}

// tellBackOffs says once of each run that its successor is held back.
func (w *worker) tellBackOffs(s situation, p plan) {
	for name, held := range p.held {
		last := s.last(name)
		if held.reason != "CrashLoopBackOff" || last == nil {
			continue
		}
		if told, ok := w.memory.backed[name]; !ok || told != last.Attempt {
			w.memory.backed[name] = last.Attempt
			w.event(s.pod, name, corev1.EventTypeWarning, "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s_%s(%s)",
				name, s.pod.Name, s.pod.Namespace, s.pod.UID))
		}
	}
}

// event tells about the pod, or one of its containers.
func (w *worker) event(pod *corev1.Pod, container, eventType, reason, message string) {
	ref := &corev1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
	if container != "" {
		ref.FieldPath = "spec.containers{" + container + "}"
		for _, c := range pod.Spec.InitContainers {
			if c.Name == container {
				ref.FieldPath = "spec.initContainers{" + container + "}"
			}
		}
	}
	w.m.cfg.Reporter.Event(ref, eventType, reason, message)
}
