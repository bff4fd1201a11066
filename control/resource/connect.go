package resource

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Connect asks admission whether a stream to an object may be opened: exec,
// attach, portforward, proxy. options are those in the query, and as is their
// kind. Nothing is stored.
func (r *Registry) Connect(ctx context.Context, kind *Kind, ns, name, subresource string, as schema.GroupVersionKind, options runtime.Object) error {
	attributes := &Attributes{
		Operation: Connect, Kind: kind, Namespace: ns, Name: name, Subresource: subresource,
		As: as, Object: options, User: requester(ctx),
	}
	if err := r.admission.Admit(ctx, attributes); err != nil {
		return err
	}
	return r.admission.Validate(ctx, attributes)
}
