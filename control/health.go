package control

import (
	"errors"
	"slices"
	"sync/atomic"

	"github.com/musterhq/muster/control/apiserver"
	"github.com/musterhq/muster/control/store"
)

// checks are what a node must have done before it can answer for the cluster, by
// the names that they have in Kubernetes. A load balancer that asks does not send
// clients to a node that would refuse them, or not know their kinds, only because
// it has just started, or to one that is about to stop.
func (s *Server) checks() []apiserver.Check {
	var rolesSeen atomic.Bool
	return []apiserver.Check{
		{Name: "informer-sync", Run: once(s.authorizer.Synced(), "roles and bindings are not read yet")},
		{Name: "poststarthook/crd-informer-synced", Run: once([]<-chan struct{}{s.custom.Synced()}, "custom resource definitions are not read yet")},
		{Name: "poststarthook/rbac/bootstrap-roles", Run: func() error {
			if rolesSeen.Load() {
				return nil // that somebody takes one away later is not this node's fault
			}
			if _, _, err := s.store.Table(store.ClusterRoles).GetItem("", "cluster-admin"); err != nil {
				return errors.New("the first roles are not here yet")
			}
			rolesSeen.Store(true)
			return nil
		}},
		{Name: "shutdown", Run: func() error {
			if s.stopping.Load() {
				return errors.New("process is shutting down")
			}
			return nil
		}},
	}
}

// once fails until all have been closed.
func once(done []<-chan struct{}, otherwise string) func() error {
	return func() error {
		open := func(c <-chan struct{}) bool {
			select {
			case <-c:
				return false
			default:
				return true
			}
		}
		if slices.ContainsFunc(done, open) {
			return errors.New(otherwise)
		}
		return nil
	}
}
