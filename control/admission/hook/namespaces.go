package hook

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/fsm/kv"
)

// Namespaces answers what hooks ask about the namespace of a request.
type Namespaces struct{ Store *store.Store }

// Selected says whether the request is about a namespace, or something in one,
// that the selector selects. What is in no namespace always is.
func (n Namespaces) Selected(ctx context.Context, selector labels.Selector, a admission.Attributes) (bool, *apierrors.StatusError) {
	itself := a.GetResource().Group == "" && a.GetResource().Resource == "namespaces"
	if selector.Empty() || a.GetNamespace() == "" && !itself {
		return true, nil
	}
	if itself && a.GetSubresource() == "" && (a.GetOperation() == admission.Create || a.GetOperation() == admission.Update) {
		// Not yet stored like that.
		accessor, err := meta.Accessor(a.GetObject())
		if err != nil {
			return false, apierrors.NewInternalError(err)
		}
		return selector.Matches(labels.Set(accessor.GetLabels())), nil
	}
	item, err := n.item(ctx, a.GetNamespace())
	if err != nil {
		return false, err
	}
	return selector.Matches(item.Labels), nil
}

// Get returns a namespace.
func (n Namespaces) Get(ctx context.Context, name string) (*corev1.Namespace, error) {
	item, refused := n.item(ctx, name)
	if refused != nil {
		return nil, refused
	}
	obj, err := store.Decode(store.Namespaces, item)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Namespace), nil
}

func (n Namespaces) item(ctx context.Context, name string) (*kv.Item, *apierrors.StatusError) {
	table := n.Store.Table(store.Namespaces)
	item, _, err := table.GetItem("", name)
	if errors.Is(err, store.ErrNotFound) {
		// It may have been created a moment ago through another node.
		if err := n.Store.ReadBarrier(ctx); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		item, _, err = table.GetItem("", name)
	}
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrInvalid):
		return nil, apierrors.NewNotFound(store.Namespaces.Resource, name)
	case err != nil:
		return nil, apierrors.NewInternalError(err)
	}
	return item, nil
}
