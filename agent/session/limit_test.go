package session

import (
	"testing"
	"time"
)

// A probe that fails each second for an hour would be 3,600 writes.
func TestEventsAboutOneObjectAreLimited(t *testing.T) {
	limit := newEventLimit()
	now := time.Unix(1000, 0)
	allowed := 0
	for second := range 3600 {
		if limit.allow("a", now.Add(time.Duration(second)*time.Second)) {
			allowed++
		}
	}
	if want := eventBurst + int(time.Hour/eventRefill) - 1; allowed != want {
		t.Errorf("%d events in an hour, want %d", allowed, want)
	}
	if !limit.allow("b", now) {
		t.Error("an event about another object was refused")
	}
}
