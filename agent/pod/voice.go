package pod

import (
	"bytes"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// settle is how long intermediate states of a pod are kept back: most are over
// by then, and each one said is a write in the cluster's log.
const settle = 300 * time.Millisecond

// voice says how a pod is, each state once.
type voice struct {
	tell func(*corev1.PodStatus)

	mu     sync.Mutex
	last   *corev1.PodStatus // what was said
	raw    []byte            // it, encoded: compared in a tenth of the time
	unsaid *corev1.PodStatus // what is said when timer fires
	timer  *time.Timer
}

// now says status at once.
func (v *voice) now(status *corev1.PodStatus) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.speak(status)
}

func (v *voice) speak(status *corev1.PodStatus) {
	v.unsaid = nil
	raw, err := status.Marshal()
	if err == nil && v.last != nil && bytes.Equal(v.raw, raw) {
		return
	}
	v.last, v.raw = status, raw
	v.tell(status)
}

// soon says status, or what takes its place until then.
func (v *voice) soon(status *corev1.PodStatus) {
	v.mu.Lock()
	defer v.mu.Unlock()
	waiting := v.unsaid != nil
	v.unsaid = status
	if waiting {
		return
	}
	if v.timer == nil {
		v.timer = time.AfterFunc(settle, v.settled)
	} else {
		v.timer.Reset(settle)
	}
}

func (v *voice) settled() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.unsaid != nil {
		v.speak(v.unsaid)
	}
}

// said is what was said last; nil nothing.
func (v *voice) said() *corev1.PodStatus {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last
}

// end forgets what was to be said.
func (v *voice) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.unsaid = nil
	if v.timer != nil {
		v.timer.Stop()
	}
}
