package apiserver

import (
	"context"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/audit"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// sendObject answers with a stored kind's object in the form that out says.
func (s *Server) sendObject(w http.ResponseWriter, r *http.Request, code int, c *call, obj store.Object, out output) error {
	switch out.as {
	case asTable:
		include, err := includeObject(r)
		if err != nil {
			return err
		}
		table, err := tableOf(r.Context(), c.kind, obj, include, out.meta)
		if err != nil {
			return err
		}
		table.ResourceVersion = obj.GetResourceVersion()
		return s.send(w, r, code, out.meta.WithKind(asTable), table, out)
	case asPartial:
		return s.send(w, r, code, out.meta.WithKind(asPartial), meta.AsPartialObjectMetadata(obj), out)
	}
	return s.send(w, r, code, c.kind.Spec.Kind, obj, out)
}

// send answers with obj, which must be the caller's own.
func (s *Server) send(w http.ResponseWriter, r *http.Request, code int, kind schema.GroupVersionKind, obj runtime.Object, out output) error {
	audit.From(r.Context()).Answered(obj, kind)
	body, err := encodeAs(obj, kind, out)
	if err != nil {
		return err
	}
	s.write(w, r, code, out.media, body)
	return nil
}

// includeObject is how much of the object a client wants with each row.
func includeObject(r *http.Request) (metav1.IncludeObjectPolicy, error) {
	value, _ := queryValue(r.URL, "includeObject")
	switch include := metav1.IncludeObjectPolicy(value); include {
	case "":
		return metav1.IncludeMetadata, nil
	case metav1.IncludeMetadata, metav1.IncludeObject, metav1.IncludeNone:
		return include, nil
	}
	return "", apierrors.NewBadRequest(`Unable to convert to Table as requested: includeObject: Invalid value: "` + value + `": must be 'Metadata', 'Object', 'None', or empty`)
}

// tableOf shows an object, or a list of them, as rows.
func tableOf(ctx context.Context, kind *resource.Kind, obj runtime.Object, include metav1.IncludeObjectPolicy, version schema.GroupVersion) (*metav1.Table, error) {
	table, err := kind.Table(ctx, obj)
	if err != nil {
		return nil, err
	}
	return table, showObjects(table, include, kind.Spec.Kind, version)
}

// showObjects leaves as much of the objects in a table as the client wants.
func showObjects(table *metav1.Table, include metav1.IncludeObjectPolicy, kind schema.GroupVersionKind, version schema.GroupVersion) error {
	if table.Rows == nil {
		table.Rows = []metav1.TableRow{}
	}
	for i := range table.Rows {
		row := &table.Rows[i]
		switch include {
		case metav1.IncludeNone:
			row.Object = runtime.RawExtension{}
		case metav1.IncludeObject:
			row.Object.Object.GetObjectKind().SetGroupVersionKind(kind)
		default:
			m, err := meta.Accessor(row.Object.Object)
			if err != nil {
				return err
			}
			partial := meta.AsPartialObjectMetadata(m)
			partial.SetGroupVersionKind(version.WithKind(asPartial))
			row.Object.Object = partial
		}
	}
	return nil
}
