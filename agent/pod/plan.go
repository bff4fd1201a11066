package pod

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/agent/runtime"
)

// situation is all a plan is made from. It is read first, and not written.
type situation struct {
	pod      *corev1.Pod
	observed runtime.Pod
	memory   *memory
	now      time.Time
}

// plan is what is to be done next about a pod that should run. Nothing in it
// and a zero wake means: all is as it should be until something happens.
type plan struct {
	// finished: all has run that ever will. failure says why it is over before
	// its containers were, if so.
	finished bool
	failure  *failure
	ended    bool // it was stopped from outside

	stop       []stop   // running containers that must not go on
	newSandbox bool     // after what is left of the others is stopped
	attempt    uint32   // of the new sandbox
	start      []start  // in this order
	drop       []string // ended containers that nobody needs any more
	dropBoxes  []string // sandboxes without any needed container

	held map[string]waiting // containers that wait for wake, by name
	wake time.Time          // when time alone changes the plan
}

type failure struct{ reason, message string }

type waiting struct{ reason, message string }

type stop struct {
	container runtime.Container
	message   string
}

type start struct {
	spec    *corev1.Container
	init    bool
	attempt uint32
	// after is the end this start answers; nil for a first start. next is the
	// back-off that then holds.
	after *runtime.Container
	next  backOff
}

// empty says that there is nothing to do.
func (p *plan) empty() bool {
	return len(p.stop) == 0 && !p.newSandbox && len(p.start) == 0 && len(p.drop) == 0 && len(p.dropBoxes) == 0
}

func (p *plan) wakeAt(at time.Time) {
	if !at.IsZero() && (p.wake.IsZero() || at.Before(p.wake)) {
		p.wake = at
	}
}

// decide plans. It is a function of its argument alone.
func decide(s situation) plan {
	p := plan{held: map[string]waiting{}}
	p.tidy(s)
	if deadline := s.pod.Spec.ActiveDeadlineSeconds; deadline != nil && s.memory.startTime != nil {
		at := s.memory.startTime.Add(time.Duration(*deadline) * time.Second)
		if !s.now.Before(at) {
			p.finished = true
			p.failure = &failure{"DeadlineExceeded", "Pod was active on the node longer than the specified deadline"}
			return p
		}
		p.wakeAt(at)
	}
	box := s.box()
	if p.over(s, box) {
		p.finished = true
		return p
	}
	if box == nil {
		p.newSandbox = true
		for _, b := range s.observed.Sandboxes {
			p.attempt = max(p.attempt, b.Attempt+1)
		}
		if until := s.memory.sandbox.until; s.now.Before(until) {
			p.newSandbox = false
			p.wakeAt(until)
		}
		return p
	}
	if p.initialise(s, box) {
		for i := range s.pod.Spec.Containers {
			p.keep(s, box, &s.pod.Spec.Containers[i], false)
		}
	}
	return p
}

// over says whether every container has ended for good, or an init container
// has failed for good.
func (p *plan) over(s situation, box *runtime.Sandbox) bool {
	for i := range s.pod.Spec.InitContainers {
		spec := &s.pod.Spec.InitContainers[i]
		if sidecar(spec) {
			continue
		}
		if last := s.last(spec.Name); last != nil && last.State == runtime.Exited && last.ExitCode != 0 && !s.restarts(spec, true, last) && !s.initialised(box) {
			return true
		}
	}
	for i := range s.pod.Spec.Containers {
		spec := &s.pod.Spec.Containers[i]
		last := s.last(spec.Name)
		if last == nil || last.State != runtime.Exited || s.restarts(spec, false, last) {
			return false
		}
	}
	return true
}

// initialise plans for the init containers and says whether they are done.
func (p *plan) initialise(s situation, box *runtime.Sandbox) bool {
	done := s.initialised(box)
	for i := range s.pod.Spec.InitContainers {
		spec := &s.pod.Spec.InitContainers[i]
		if sidecar(spec) {
			p.keep(s, box, spec, true)
			if !done {
				run := in(box, spec.Name)
				if run == nil || run.State != runtime.Running || !s.memory.probes.started(spec, run) {
					return false
				}
			}
			continue
		}
		if done {
			continue
		}
		run := in(box, spec.Name)
		if run != nil && run.State == runtime.Exited && run.ExitCode == 0 {
			continue
		}
		p.keep(s, box, spec, true)
		return false
	}
	return true
}

// keep plans what a container that should run in box needs.
func (p *plan) keep(s situation, box *runtime.Sandbox, spec *corev1.Container, init bool) {
	last := s.last(spec.Name)
	run := in(box, spec.Name)
	if run != nil {
		switch run.State {
		case runtime.Running:
			if message := s.condemned(spec, run); message != "" {
				p.stop = append(p.stop, stop{*run, message})
			}
			return
		case runtime.Unknown:
			p.stop = append(p.stop, stop{*run, fmt.Sprintf("Container %s is in unknown state, try killing it before restart", spec.Name)})
			return
		case runtime.Created: // a start that was interrupted
			p.drop = append(p.drop, run.ID)
			return
		}
	}
	if last != nil && last.State == runtime.Exited && !s.restarts(spec, init, last) && (run != nil || !init) {
		return
	}
	begin := start{spec: spec, init: init}
	if last != nil {
		begin.attempt = last.Attempt + 1
		begin.after = last
		back := s.memory.restarts[spec.Name]
		// A container that ended with its sandbox did not fail by itself.
		if run != nil {
			if until := back.until(last.FinishedAt); s.now.Before(until) {
				p.wakeAt(until)
				p.held[spec.Name] = waiting{"CrashLoopBackOff", fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
					back.delay, spec.Name, s.pod.Name, s.pod.Namespace, s.pod.UID)}
				return
			}
			begin.next = back.next(last.FinishedAt, s.now)
		} else {
			begin.next = back
		}
	}
	if trouble, ok := s.memory.trouble[spec.Name]; ok {
		if s.now.Before(trouble.until) {
			p.wakeAt(trouble.until)
			p.held[spec.Name] = trouble.waiting
			return
		}
	}
	p.start = append(p.start, begin)
}

// tidy finds what is not needed any more: of each container all but the last
// two runs, and sandboxes that hold none of them.
func (p *plan) tidy(s situation) {
	kept := map[string]int{}
	for _, c := range s.runs() {
		kept[c.Name]++
		if kept[c.Name] > 2 && c.State == runtime.Exited && s.observes(c.ID) {
			p.drop = append(p.drop, c.ID)
		}
	}
	for i, box := range s.observed.Sandboxes {
		if i == 0 || box.Ready {
			continue
		}
		needed := slices.ContainsFunc(box.Containers, func(c runtime.Container) bool {
			return c.State != runtime.Exited || !slices.Contains(p.drop, c.ID)
		})
		if !needed {
			p.dropBoxes = append(p.dropBoxes, box.ID)
		}
	}
}

// box is the sandbox containers run in, if there is one.
func (s situation) box() *runtime.Sandbox {
	if len(s.observed.Sandboxes) > 0 && s.observed.Sandboxes[0].Ready {
		return &s.observed.Sandboxes[0]
	}
	return nil
}

// in is the last run of a container within box.
func in(box *runtime.Sandbox, name string) *runtime.Container {
	var last *runtime.Container
	for i := range box.Containers {
		if c := &box.Containers[i]; c.Name == name && (last == nil || c.Attempt > last.Attempt) {
			last = c
		}
	}
	return last
}

// runs are all runs of all containers, the last first, with those the runtime
// has lost but the control plane heard of.
func (s situation) runs() []runtime.Container {
	var all []runtime.Container
	for _, box := range s.observed.Sandboxes {
		all = append(all, box.Containers...)
	}
	all = append(all, lostRuns(s.pod, all)...)
	slices.SortStableFunc(all, func(a, b runtime.Container) int {
		if a.Attempt != b.Attempt {
			return int(b.Attempt) - int(a.Attempt)
		}
		return b.CreatedAt.Compare(a.CreatedAt)
	})
	return all
}

// observes says whether the runtime knows that container.
func (s situation) observes(id string) bool {
	return slices.ContainsFunc(s.observed.Sandboxes, func(box runtime.Sandbox) bool {
		return slices.ContainsFunc(box.Containers, func(c runtime.Container) bool { return c.ID == id })
	})
}

// last is the last run of a container, in any sandbox.
func (s situation) last(name string) *runtime.Container { return s.recent(name, 0) }

func (s situation) recent(name string, back int) *runtime.Container {
	for _, c := range s.runs() {
		if c.Name != name {
			continue
		}
		if back == 0 {
			return &c
		}
		back--
	}
	return nil
}

// initialised says whether init containers are past: a container proper has
// been made in this sandbox.
func (s situation) initialised(box *runtime.Sandbox) bool {
	if box == nil {
		return false
	}
	for i := range s.pod.Spec.Containers {
		if in(box, s.pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

// restarts says whether the container is to run again after this end.
func (s situation) restarts(spec *corev1.Container, init bool, last *runtime.Container) bool {
	policy := s.pod.Spec.RestartPolicy
	if spec.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*spec.RestartPolicy)
	} else if init && policy == corev1.RestartPolicyAlways {
		policy = corev1.RestartPolicyOnFailure
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return last.ExitCode != 0
	}
	return true
}

// condemned says why a running container must be stopped, if it must.
func (s situation) condemned(spec *corev1.Container, run *runtime.Container) string {
	if want := run.Annotations[annotationHash]; want != "" && want != hashOf(spec) {
		return fmt.Sprintf("Container %s definition changed, will be restarted", spec.Name)
	}
	if kind := s.memory.probes.condemned(run); kind != "" {
		return fmt.Sprintf("Container %s failed %s probe, will be restarted", spec.Name, kind)
	}
	return ""
}

func sidecar(spec *corev1.Container) bool {
	return spec.RestartPolicy != nil && *spec.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// Annotations on containers, by which a later agent knows what they were made from.
const (
	annotationHash        = "muster.dev/container-hash"
	annotationGrace       = "muster.dev/termination-grace-seconds"
	annotationMessagePath = "muster.dev/termination-message-path"
)

// hashOf covers what a change of makes a container be restarted, which is the
// image, as in Kubernetes.
func hashOf(spec *corev1.Container) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%q %q", spec.Name, spec.Image)
	return strconv.FormatUint(h.Sum64(), 16)
}
