package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// immortal namespaces cannot be deleted: the cluster is not whole without them.
var immortal = []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic}

// namespaceLifecycle lets nothing be created in a namespace that does not
// exist or is about to go. The create then demands that the namespace is still
// as it was seen, so that nothing can be left behind in one that is gone.
type namespaceLifecycle struct{ store *store.Store }

func (l *namespaceLifecycle) Admit(ctx context.Context, a *resource.Attributes) error {
	if a.Operation == resource.Delete && a.Kind == resource.Namespaces && slices.Contains(immortal, a.Name) {
		return apierrors.NewForbidden(a.Kind.Spec.Resource, a.Name, errors.New("this namespace may not be deleted"))
	}
	if !l.concerns(a) {
		return nil
	}
	_, err := l.check(ctx, a)
	return err
}

func (l *namespaceLifecycle) Validate(ctx context.Context, a *resource.Attributes) error {
	if !l.concerns(a) {
		return nil
	}
	revision, err := l.check(ctx, a)
	if err != nil {
		return err
	}
	a.Demands = append(a.Demands, store.Write{Verb: store.Check, Spec: store.Namespaces, Name: a.Namespace, Guard: revision})
	return nil
}

func (l *namespaceLifecycle) concerns(a *resource.Attributes) bool {
	return a.Operation == resource.Create && a.Namespace != ""
}

// check answers the revision of a namespace that takes new content.
func (l *namespaceLifecycle) check(ctx context.Context, a *resource.Attributes) (uint64, error) {
	table := l.store.Table(store.Namespaces)
	item, _, err := table.GetItem("", a.Namespace)
	if errors.Is(err, store.ErrNotFound) {
		// It may have been created a moment ago through another node.
		if err := l.store.ReadBarrier(ctx); err != nil {
			return 0, err
		}
		item, _, err = table.GetItem("", a.Namespace)
	}
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrInvalid):
		return 0, apierrors.NewNotFound(store.Namespaces.Resource, a.Namespace)
	case err != nil:
		return 0, err
	case item.Fields.Get("status.phase") == string(corev1.NamespaceTerminating):
		return 0, terminating(a)
	}
	return item.Revision, nil
}

func terminating(a *resource.Attributes) error {
	err := a.Forbidden(fmt.Errorf("unable to create new content in namespace %s because it is being terminated", a.Namespace))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", a.Namespace),
		Field:   "metadata.namespace",
	})
	return err
}
