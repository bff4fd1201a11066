package node

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// A node that has just been given its pod range is ready, and what waits for it
// should not wait for the next turn.
func TestAgainLooksNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var health atomic.Pointer[Health]
		health.Store(&Health{Message: "no network yet"})
		n := New(Config{Dir: t.TempDir(), Health: func(context.Context) Health { return *health.Load() }})
		said := make(chan *corev1.NodeStatus, 100)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx, func(s *corev1.NodeStatus) { said <- s }) }()
		synctest.Wait()
		for len(said) > 0 {
			<-said
		}
		began := time.Now()
		health.Store(&Health{Runtime: "containerd://2.4.2", Ready: true, NetworkReady: true})
		n.Again()
		if c := ready(*<-said); c.Status != corev1.ConditionTrue {
			t.Errorf("ready is %s, want True", c.Status)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("said after %v, want at once", waited)
		}
		cancel()
		<-done
	})
}
