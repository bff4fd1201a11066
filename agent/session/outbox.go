package session

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

const (
	// resendAfter is how long a status may stay unanswered.
	resendAfter = 5 * time.Second
	// goneAfter is how long word of a pod's end waits for its last status.
	goneAfter = 3 * time.Second
	// eventsMax are kept while there is no session; then the oldest are lost.
	eventsMax = 1000
)

// outbox holds what the control plane is to be told: of each pod the latest
// status, one on its way at a time, so that a slow control node makes statuses
// fewer and not later. It is bounded by the pods of a node, and eventsMax.
type outbox struct {
	wake chan struct{} // something may be there to take

	mu       sync.Mutex
	statuses map[types.UID]*podStatus
	unsent   map[types.UID]bool // with a status to say
	gone     map[types.UID]*podGone
	node     *agentv1.FromAgent
	volumes  map[string]*agentv1.FromAgent // what became of them, by uid
	events   []*agentv1.FromAgent
	sequence uint64
	// nodeReady is what was last said of the node.
	nodeReady bool

	limit *eventLimit
}

type podStatus struct {
	message  *agentv1.PodStatus
	sent     uint64 // sequence of what is on its way; 0 nothing
	sentAt   time.Time
	stored   uint64
	received uint64 // sequence of the latest
	ready    bool   // what the latest says
	differs  bool   // what is stored says otherwise
}

type podGone struct {
	message *agentv1.FromAgent
	since   time.Time
}

func newOutbox() *outbox {
	return &outbox{
		wake: make(chan struct{}, 1), statuses: map[types.UID]*podStatus{}, unsent: map[types.UID]bool{}, gone: map[types.UID]*podGone{},
		volumes: map[string]*agentv1.FromAgent{},
		limit:   newEventLimit(),
	}
}

func (o *outbox) nudge() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// begin starts a session: its control node is told the status of every pod.
func (o *outbox) begin() {
	o.mu.Lock()
	for uid, s := range o.statuses {
		s.sent = 0
		o.unsent[uid] = true
	}
	o.mu.Unlock()
	o.nudge()
}

// take answers what is to be said now.
func (o *outbox) take(now time.Time) []*agentv1.FromAgent {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []*agentv1.FromAgent
	if o.node != nil {
		out = append(out, o.node)
		o.node = nil
	}
	for uid := range o.unsent {
		s := o.statuses[uid]
		if s == nil {
			delete(o.unsent, uid)
			continue
		}
		if s.sent != 0 && now.Sub(s.sentAt) < resendAfter {
			continue // its answer will ask for more
		}
		s.sent, s.sentAt = s.received, now
		out = append(out, &agentv1.FromAgent{Message: &agentv1.FromAgent_PodStatus{PodStatus: s.message}})
	}
	for uid, said := range o.volumes {
		out = append(out, said)
		delete(o.volumes, uid)
	}
	out = append(out, o.events...)
	o.events = nil
	for uid, g := range o.gone {
		if s := o.statuses[uid]; s != nil && s.stored != s.received && now.Sub(g.since) < goneAfter {
			continue
		}
		out = append(out, g.message)
		delete(o.gone, uid)
	}
	return out
}

// repeat says the latest status of a pod again. Called with mu held.
func (o *outbox) repeat(uid types.UID, s *podStatus) {
	if !o.nodeReady {
		return
	}
	s.sent, s.differs = 0, false
	o.unsent[uid] = true
	o.nudge()
}

// stored takes note that a status was stored.
func (o *outbox) stored(uid types.UID, sequence uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.statuses[uid]
	if s == nil {
		return
	}
	s.stored = max(s.stored, sequence)
	if s.sent != 0 && sequence >= s.sent {
		s.sent = 0
	}
	if s.stored == s.received {
		delete(o.unsent, uid)
		if s.differs {
			o.repeat(uid, s)
		}
	}
	if o.unsent[uid] || o.gone[uid] != nil {
		o.nudge()
	}
}

// Status replaces what is to be said of a pod.
func (s *Session) Status(pod *corev1.Pod, status *corev1.PodStatus) {
	raw, err := status.Marshal()
	if err != nil {
		s.log.Error("could not encode a pod's status", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		return
	}
	o := s.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sequence++
	entry := o.statuses[pod.UID]
	if entry == nil {
		entry = &podStatus{}
		o.statuses[pod.UID] = entry
	}
	entry.received, entry.ready, entry.differs = o.sequence, isReady(status), false
	entry.message = &agentv1.PodStatus{Namespace: pod.Namespace, Name: pod.Name, Uid: string(pod.UID), Status: raw, Sequence: o.sequence}
	o.unsent[pod.UID] = true
	o.nudge()
}

// Gone says that nothing of a pod runs here, after what its status was.
func (s *Session) Gone(namespace, name string, uid types.UID) {
	o := s.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gone[uid] = &podGone{since: time.Now(), message: &agentv1.FromAgent{Message: &agentv1.FromAgent_PodGone{
		PodGone: &agentv1.PodGone{Namespace: namespace, Name: name, Uid: string(uid)},
	}}}
	o.nudge()
}

// Forget drops what was to be said of a pod.
func (s *Session) Forget(uid types.UID) {
	o := s.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.statuses, uid)
	delete(o.unsent, uid)
	delete(o.gone, uid)
}

// Reclaimed says that the directory of a volume is gone, or why not yet. If it gets lost,
// the control plane asks again in the next session.
func (s *Session) Reclaimed(name, uid, failure string) {
	o := s.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	o.volumes[uid] = &agentv1.FromAgent{Message: &agentv1.FromAgent_VolumeReclaimed{
		VolumeReclaimed: &agentv1.VolumeReclaimed{Name: name, Uid: uid, Error: failure},
	}}
	o.nudge()
}

// Event asks for an event. When there is no session for long the oldest are lost,
// and of very many about one object most are (see eventLimit).
func (s *Session) Event(regarding *corev1.ObjectReference, eventType, reason, message string) {
	if !s.outbox.limit.allow(regarding.UID, time.Now()) {
		return
	}
	raw, err := regarding.Marshal()
	if err != nil {
		s.log.Error("could not encode an event", "reason", reason, "err", err)
		return
	}
	o := s.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.events) >= eventsMax {
		o.events = o.events[1:]
	}
	o.events = append(o.events, &agentv1.FromAgent{Message: &agentv1.FromAgent_Event{
		Event: &agentv1.EventReport{Regarding: raw, Type: eventType, Reason: reason, Message: message},
	}})
	o.nudge()
}

// NodeStatus replaces what is to be said of the node. A new session begins with
// the whole node, so it is not kept.
func (s *Session) NodeStatus(status *corev1.NodeStatus) {
	s.outbox.nodeIsReady(nodeReady(status))
	raw, err := status.Marshal()
	if err != nil {
		s.log.Error("could not encode the node's status", "err", err)
		return
	}
	o := s.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	o.node = &agentv1.FromAgent{Message: &agentv1.FromAgent_NodeStatus{NodeStatus: &agentv1.NodeStatus{Status: raw}}}
	o.nudge()
}
