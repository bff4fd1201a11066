package session

import (
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Events let statuses go first, and go together; how long each has waited is said.
func TestEventsWaitForOneAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Session{outbox: newOutbox(), log: slog.New(slog.DiscardHandler)}
		o := s.outbox
		s.Event(&corev1.ObjectReference{UID: "a"}, "Normal", "Pulled", "there")
		time.Sleep(eventsAfter - time.Millisecond)
		s.Event(&corev1.ObjectReference{UID: "a"}, "Normal", "Started", "runs")
		s.Status(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "a"}}, &corev1.PodStatus{})
		<-o.wake // for the status
		if said := o.take(time.Now()); len(said) != 1 || said[0].GetPodStatus() == nil {
			t.Fatalf("said %v, want the status alone", said)
		}
		<-o.wake // for the events: nothing else happens
		var ages []uint64
		for _, message := range o.take(time.Now()) {
			ages = append(ages, message.GetEvent().GetAgeMs())
		}
		if want := []uint64{uint64(eventsAfter.Milliseconds()), 1}; !slices.Equal(ages, want) {
			t.Errorf("events of ages %v in ms, want %v", ages, want)
		}
		if said := o.take(time.Now().Add(eventsAfter)); len(said) > 0 {
			t.Errorf("%v is said twice", said)
		}
	})
}
