package pod

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/agent/runtime"
)

// memory is what a worker knows of its pod beside what it sees. It is lost with
// the agent, which costs no more than a back-off.
type memory struct {
	startTime *metav1.Time
	restarts  map[string]backOff // by container
	pulls     map[string]pull    // by image
	trouble   map[string]trouble // by container: why it could not be started
	sandbox   trouble            // why there is no sandbox
	probes    *probes
	messages  map[string]string // what ended containers left to say, by container ID
	backed    map[string]uint32 // by container: the run whose back-off was told
}

func newMemory() *memory {
	return &memory{
		restarts: map[string]backOff{}, pulls: map[string]pull{}, trouble: map[string]trouble{},
		messages: map[string]string{}, backed: map[string]uint32{}, probes: newProbes(),
	}
}

// trouble is a failed attempt that will be repeated.
type trouble struct {
	waiting
	until time.Time
	delay time.Duration
}

// again is the trouble after one more failure.
func (t trouble) again(now time.Time, w waiting) trouble {
	delay := min(max(2*t.delay, time.Second), 30*time.Second)
	return trouble{waiting: w, until: now.Add(delay), delay: delay}
}

// pull is how pulling an image went so far.
type pull struct {
	backOff
	failed  time.Time
	message string
}

// lostRuns are containers that the control plane was told of and the runtime
// knows nothing about, as after the loss of its directory. One that was running
// has ended in a way nobody saw.
func lostRuns(pod *corev1.Pod, known []runtime.Container) []runtime.Container {
	var lost []runtime.Container
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for _, s := range statuses {
			attempt := uint32(max(s.RestartCount, 0))
			seen := false
			for _, c := range known {
				seen = seen || c.Name == s.Name && c.Attempt >= attempt
			}
			if seen {
				continue
			}
			c := runtime.Container{Name: s.Name, Attempt: attempt, State: runtime.Exited, Image: s.Image, ImageID: s.ImageID}
			ended := s.State.Terminated
			if s.State.Waiting != nil {
				ended = s.LastTerminationState.Terminated
			}
			switch {
			case ended != nil:
				c.ID, c.ExitCode, c.Reason, c.Message = ended.ContainerID, ended.ExitCode, ended.Reason, ended.Message
				c.StartedAt, c.FinishedAt = ended.StartedAt.Time, ended.FinishedAt.Time
			case s.State.Running != nil:
				c.ID, c.ExitCode, c.Reason = s.ContainerID, 137, "ContainerStatusUnknown"
				c.Message = "The container could not be located when the pod was terminated"
				c.StartedAt = s.State.Running.StartedAt.Time
			default:
				continue
			}
			if _, id, ok := strings.Cut(c.ID, "://"); ok {
				c.ID = id
			}
			lost = append(lost, c)
		}
	}
	return lost
}
