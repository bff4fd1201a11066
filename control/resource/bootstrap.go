package resource

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

// bootstrapNamespaces exist in every cluster.
var bootstrapNamespaces = []string{
	metav1.NamespaceDefault,
	metav1.NamespaceSystem,
	metav1.NamespacePublic,
	corev1.NamespaceNodeLease,
}

// EnsureBootstrap creates what every cluster has and this one lacks. It writes
// nothing when all is there, so a leader runs it at the start of each term.
func EnsureBootstrap(ctx context.Context, r *Registry) error {
	if err := r.store.ReadBarrier(ctx); err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	table := store.Of[*corev1.Namespace](r.store, store.Namespaces)
	for _, name := range bootstrapNamespaces {
		if _, err := table.Get(ctx, "", name); err == nil {
			continue
		}
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := r.Create(ctx, Namespaces, "", ns, CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("bootstrap: namespace %s: %w", name, err)
		}
	}
	if err := ensureAll(ctx, r, bootstrapClasses()); err != nil {
		return err
	}
	return ensureLocalPath(ctx, r)
}
