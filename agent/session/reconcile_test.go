package session

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func podReady(ready corev1.ConditionStatus) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "u"},
		Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}},
	}
}

// statuses counts the pod statuses that are to be said now.
func statuses(o *outbox) (n int) {
	for _, message := range o.take(time.Now()) {
		if message.GetPodStatus() != nil {
			n++
		}
	}
	return n
}

// The leader's mark that a pod of an unready node is not ready may land just
// after the agent's word that it is, and stood for ever.
func TestReadyPodThatIsMarkedNotReadyIsSaidAgain(t *testing.T) {
	s := &Session{outbox: newOutbox()}
	o := s.outbox
	o.nodeIsReady(true)
	said := podReady(corev1.ConditionTrue)
	s.Status(said, &said.Status)
	if n := statuses(o); n != 1 {
		t.Fatalf("%d statuses to say, want 1", n)
	}
	marked := podReady(corev1.ConditionFalse)
	o.seen(marked) // older than what is on its way, or newer: not known yet
	if n := statuses(o); n != 0 {
		t.Errorf("%d statuses while one is on its way, want none", n)
	}
	o.stored("u", o.sequence)
	if n := statuses(o); n != 1 {
		t.Errorf("%d statuses after the other was stored, want it said again", n)
	}
	o.stored("u", o.sequence)
	o.seen(said)
	if n := statuses(o); n != 0 {
		t.Errorf("%d statuses although all agree, want none", n)
	}
	o.seen(marked)
	if n := statuses(o); n != 1 {
		t.Errorf("%d statuses after a later mark, want it said again", n)
	}
}

// While the node is not ready the leader is right, and saying otherwise would
// make two writes for as long as it lasts.
func TestPodOfAnUnreadyNodeIsSaidAgainOnceItIsReady(t *testing.T) {
	s := &Session{outbox: newOutbox()}
	o := s.outbox
	o.nodeIsReady(false)
	said := podReady(corev1.ConditionTrue)
	s.Status(said, &said.Status)
	statuses(o)
	o.stored("u", o.sequence)
	o.seen(podReady(corev1.ConditionFalse))
	if n := statuses(o); n != 0 {
		t.Errorf("%d statuses while the node is not ready, want none", n)
	}
	o.nodeIsReady(true)
	if n := statuses(o); n != 1 {
		t.Errorf("%d statuses once the node is ready, want 1", n)
	}
}
