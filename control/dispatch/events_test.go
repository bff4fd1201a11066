package dispatch

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// kubectl shows the events of one second in the order of their names.
func TestEventsOfAStartAreNamedInTheirOrder(t *testing.T) {
	for _, uid := range strings.Split("abcdefgh", "") {
		regarding := corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web", UID: types.UID(uid)}
		names := []string{"web.18a2b3c4d5e6f708"} // the scheduler's
		for _, reason := range []string{"Pulling", "Pulled", "Created", "Started", "BackOff"} {
			report := &agentv1.EventReport{Type: "Normal", Reason: reason, Message: "as it says"}
			names = append(names, eventName(&regarding, corev1.EventSource{Host: "n1"}, report))
		}
		if !slices.IsSorted(names) {
			t.Errorf("got %v, want them in the order in which things happen", names)
		}
	}
}

func TestEventsAreStoredOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		events := make(chan agentEvent, eventsMost)
		for range 100 {
			events <- agentEvent{}
		}
		var under, most, stored atomic.Int64
		go takeEvents(ctx, events, func(agentEvent) {
			most.Store(max(most.Load(), under.Add(1)))
			time.Sleep(time.Millisecond)
			under.Add(-1)
			stored.Add(1)
		})
		time.Sleep(time.Second)
		if stored.Load() != 100 || most.Load() != 1 {
			t.Errorf("%d stored, up to %d at a time, want all 100, one at a time", stored.Load(), most.Load())
		}
	})
}

// An event whose webhook doesn't answer holds the others up for a moment only.
func TestEventThatHangsHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		events := make(chan agentEvent, eventsMost)
		const pairs = 200
		for range pairs {
			events <- agentEvent{node: "hangs"}
			events <- agentEvent{node: "quick"}
		}
		var quick atomic.Int64
		go takeEvents(ctx, events, func(e agentEvent) {
			if e.node == "quick" {
				quick.Add(1)
				return
			}
			time.Sleep(30 * time.Second)
		})
		time.Sleep(pairs*eventsPatience + time.Second)
		if got := quick.Load(); got != pairs {
			t.Errorf("%d of %d stored that do not hang", got, pairs)
		}
		cancel()
		time.Sleep(time.Minute)
	})
}
