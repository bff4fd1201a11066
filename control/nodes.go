package control

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/store"
)

// WaitNodesReady returns once this control node sees all the named compute
// nodes Ready, or with ctx's error.
func (s *Server) WaitNodesReady(ctx context.Context, names []string) error {
	table := store.Of[*corev1.Node](s.store, store.Nodes)
	after := s.store.Revision()
	for {
		if allReady(ctx, table, names) {
			return nil
		}
		watch, err := table.Table().Watch(ctx, store.WatchOptions{After: after})
		if err != nil {
			return err
		}
		if _, after, err = watch.Next(ctx); err != nil {
			return err
		}
	}
}

func allReady(ctx context.Context, nodes store.Typed[*corev1.Node], names []string) bool {
	for _, name := range names {
		node, err := nodes.Get(ctx, "", name)
		if err != nil || !isReady(node) {
			return false
		}
	}
	return true
}

func isReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Leader names the leading control node, as this one knows it; empty if none.
func (s *Server) Leader() string { return s.node.Status().Leader }

// Revision is the newest one of this node's replica.
func (s *Server) Revision() uint64 { return s.machine.Revision() }
