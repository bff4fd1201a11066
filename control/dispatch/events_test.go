package dispatch

import (
	"slices"
	"strings"
	"testing"

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
