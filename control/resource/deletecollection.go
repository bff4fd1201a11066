package resource

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

// deleteConcurrency bounds the deletes in flight of one collection.
const deleteConcurrency = 64

// DeleteCollection deletes what list selects, each object by the same rules as
// Delete, and answers the objects and the revision of the list. It is not
// atomic: the first error ends it, with some objects deleted and some not.
func (r *Registry) DeleteCollection(ctx context.Context, kind *Kind, options *metav1.DeleteOptions, list store.ListOptions) ([]store.Object, uint64, error) {
	if err := r.store.ReadBarrier(ctx); err != nil {
		return nil, 0, err
	}
	page, err := r.store.Table(kind.Spec).List(ctx, list)
	if err != nil {
		return nil, 0, kind.apiError(err, "")
	}
	var (
		mu      sync.Mutex
		deleted []store.Object
	)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(deleteConcurrency)
	for _, item := range page.Items {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			ns, name := kind.Spec.SplitKey(item.Key)
			obj, _, err := r.Delete(ctx, kind, ns, name, options)
			if apierrors.IsNotFound(err) {
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			deleted = append(deleted, obj)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, 0, err
	}
	return deleted, page.Revision, nil
}
