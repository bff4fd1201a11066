package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metainternalversionvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/apiserver/openapi"
	"github.com/musterhq/muster/control/audit"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// listOptions reads and checks the query of a list, watch or deletecollection.
func listOptions(r *http.Request, kind *resource.Kind) (metainternalversion.ListOptions, error) {
	options := metainternalversion.ListOptions{}
	if err := decodeQuery(r.URL.Query(), &options); err != nil {
		return options, err
	}
	metainternalversion.SetListOptionsDefaults(&options, true)
	if errs := metainternalversionvalidation.ValidateListOptions(&options, true); len(errs) > 0 {
		return options, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	if options.FieldSelector != nil {
		selector, err := kind.FieldSelector(options.FieldSelector)
		if err != nil {
			return options, badRequest(err)
		}
		options.FieldSelector = selector
	}
	return options, nil
}

// list answers the objects of a kind, or a page of them.
func (s *Server) list(w http.ResponseWriter, r *http.Request, c *call) error {
	out, err := c.negotiate(r, asTable, asPartialList)
	if err != nil {
		return err
	}
	options, err := listOptions(r, c.kind)
	if err != nil {
		return err
	}
	page, err := s.page(r.Context(), c, options)
	if err != nil {
		return err
	}
	header := metav1.ListMeta{ResourceVersion: strconv.FormatUint(page.Revision, 10), Continue: page.Continue}
	if page.Remaining > 0 {
		header.RemainingItemCount = &page.Remaining
	}
	if event := audit.From(r.Context()); event.WantsAnswer() {
		if err := auditList(event, c.kind, header, page); err != nil {
			return err
		}
	}
	body := &listBody{w: w, contentType: out.media, gzip: openapi.AcceptsGzip(r), head: r.Method == http.MethodHead}
	err = writeList(r, body, c.kind, header, page, out)
	if err == nil {
		err = body.Close()
	}
	if err != nil && body.begun {
		s.log.Debug("list was cut short", "path", r.URL.Path, "error", err)
		panic(http.ErrAbortHandler) // the client must not take it for whole
	}
	return err
}

// auditList writes a list down, which is otherwise never held as a whole.
func auditList(event *audit.Event, kind *resource.Kind, header metav1.ListMeta, page store.Page) error {
	list, err := decodeList(kind, page)
	if err != nil {
		return err
	}
	accessor, err := meta.ListAccessor(list)
	if err != nil {
		return err
	}
	accessor.SetResourceVersion(header.ResourceVersion)
	accessor.SetContinue(header.Continue)
	event.Answered(list, kind.Spec.Kind.GroupVersion().WithKind(kind.Spec.Kind.Kind+"List"))
	return nil
}

// page reads what a list asks for, at the revision that it asks for.
func (s *Server) page(ctx context.Context, c *call, options metainternalversion.ListOptions) (store.Page, error) {
	query := store.ListOptions{
		Namespace: c.namespace, Labels: options.LabelSelector, Fields: options.FieldSelector,
		Limit: options.Limit, Continue: options.Continue,
	}
	var err error
	switch {
	case options.Continue != "":
		// The token names its revision. One without, for the rest of a list that
		// expired, goes on at the newest.
		err = s.barrier(ctx)
	case options.ResourceVersion != "" && options.ResourceVersion != "0" &&
		(options.ResourceVersionMatch == metav1.ResourceVersionMatchExact || options.ResourceVersionMatch == "" && options.Limit > 0):
		if query.Revision, err = parseRevision(options.ResourceVersion); err == nil {
			err = s.reach(ctx, query.Revision)
		}
	default:
		err = s.current(ctx, options.ResourceVersion)
	}
	if err != nil {
		return store.Page{}, err
	}
	page, err := s.store.Table(c.kind.Spec).List(ctx, query)
	var expired *store.ExpiredError
	switch {
	case errors.As(err, &expired) && options.Continue != "":
		status := apierrors.NewResourceExpired("The provided continue parameter is too old to display a consistent list result. " +
			"You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. " +
			"Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.")
		status.ErrStatus.ListMeta.Continue = expired.Continue
		return page, status
	case errors.As(err, &expired):
		return page, apierrors.NewResourceExpired(fmt.Sprintf("The resourceVersion for the provided list is too old: %d, current: %d", query.Revision, s.store.Revision()))
	case errors.Is(err, store.ErrInvalid) && options.Continue != "":
		return page, apierrors.NewBadRequest("continue key is not valid: " + err.Error())
	}
	return page, err
}

// writeList renders a page item by item, so that a large list is never held as
// a whole in the form in which it is sent.
func writeList(r *http.Request, body io.Writer, kind *resource.Kind, header metav1.ListMeta, page store.Page, out output) error {
	listKind := kind.ListGroupVersionKind()
	switch out.as {
	case asTable:
		include, err := includeObject(r)
		if err != nil {
			return err
		}
		list, err := decodeList(kind, page)
		if err != nil {
			return err
		}
		table, err := tableOf(r.Context(), kind, list, include, out.meta)
		if err != nil {
			return err
		}
		table.ListMeta = header
		return encodeTo(body, table, out.meta.WithKind(asTable), out)
	case asPartialList:
		list := &metav1.PartialObjectMetadataList{ListMeta: header, Items: make([]metav1.PartialObjectMetadata, 0, len(page.Items))}
		for _, item := range page.Items {
			partial, err := partialOf(kind, store.Event{Item: item}, out.meta)
			if err != nil {
				return err
			}
			list.Items = append(list.Items, *partial)
		}
		return encodeTo(body, list, out.meta.WithKind(asPartialList), out)
	}
	if out.media == mediaProtobuf && kind.Spec.Codec == nil {
		return spliceList(body, listKind, header, page)
	}
	if out.media != mediaJSON || out.indent {
		list, err := decodeList(kind, page)
		if err != nil {
			return err
		}
		accessor, err := meta.ListAccessor(list)
		if err != nil {
			return err
		}
		accessor.SetResourceVersion(header.ResourceVersion)
		accessor.SetContinue(header.Continue)
		accessor.SetRemainingItemCount(header.RemainingItemCount)
		return encodeTo(body, list, listKind, out)
	}
	return streamList(body, kind, listKind, header, page)
}

func encodeTo(body io.Writer, obj runtime.Object, kind schema.GroupVersionKind, out output) error {
	b, err := encodeAs(obj, kind, out)
	if err != nil {
		return err
	}
	_, err = body.Write(b)
	return err
}

// partialOf is an object's metadata, read without the rest: the generated code
// skips fields that it does not know, and metadata is field 1 of every kind.
func partialOf(kind *resource.Kind, e store.Event, version schema.GroupVersion) (*metav1.PartialObjectMetadata, error) {
	partial := &metav1.PartialObjectMetadata{}
	if kind.Spec.Codec != nil {
		obj, err := store.Decode(kind.Spec, e.Item)
		if err != nil {
			return nil, err
		}
		partial = meta.AsPartialObjectMetadata(obj)
	} else if err := partial.Unmarshal(store.RawWithRevision(e.Item)); err != nil {
		return nil, fmt.Errorf("decode metadata of %s: %w", e.Item.Key, err)
	}
	partial.SetGroupVersionKind(version.WithKind(asPartial))
	return partial, nil
}

func decodeList(kind *resource.Kind, page store.Page) (runtime.Object, error) {
	objects := make([]runtime.Object, 0, len(page.Items))
	for _, item := range page.Items {
		obj, err := store.Decode(kind.Spec, item)
		if err != nil {
			return nil, err
		}
		objects = append(objects, obj)
	}
	list := kind.Spec.NewList()
	return list, meta.SetList(list, objects)
}

// Fields of every list in protobuf.
const (
	listMeta  = 1
	listItems = 2
)

// spliceList makes a list in protobuf from the bytes that are stored.
func spliceList(body io.Writer, kind schema.GroupVersionKind, header metav1.ListMeta, page store.Page) error {
	rawHeader, err := header.Marshal()
	if err != nil {
		return err
	}
	size := protowire.SizeTag(listMeta) + protowire.SizeBytes(len(rawHeader))
	for _, item := range page.Items {
		size += protowire.SizeTag(listItems) + protowire.SizeBytes(store.RawSize(item))
	}
	b := appendEnvelopeHead(nil, kind, size)
	b = protowire.AppendTag(b, listMeta, protowire.BytesType)
	b = protowire.AppendBytes(b, rawHeader)
	if _, err := body.Write(b); err != nil {
		return err
	}
	for _, item := range page.Items {
		b = protowire.AppendTag(b[:0], listItems, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(store.RawSize(item)))
		b = store.AppendRaw(b, item)
		if _, err := body.Write(b); err != nil {
			return err
		}
	}
	_, err = body.Write(appendEnvelopeTail(b[:0]))
	return err
}

// streamList writes a list in JSON, item by item. Items of typed lists have no
// kind of their own.
func streamList(body io.Writer, kind *resource.Kind, listKind schema.GroupVersionKind, header metav1.ListMeta, page store.Page) error {
	apiVersion, name := listKind.ToAPIVersionAndKind()
	b, err := json.Marshal(struct {
		Kind       string          `json:"kind"`
		APIVersion string          `json:"apiVersion"`
		Metadata   metav1.ListMeta `json:"metadata"`
	}{name, apiVersion, header})
	if err != nil {
		return err
	}
	b = append(b[:len(b)-1], `,"items":[`...)
	if _, err := body.Write(b); err != nil {
		return err
	}
	for i, item := range page.Items {
		b = b[:0]
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendStoredJSON(b, kind.Spec, schema.GroupVersionKind{}, store.Event{Item: item}); err != nil {
			return err
		}
		if _, err := body.Write(b); err != nil {
			return err
		}
	}
	_, err = body.Write([]byte("]}\n"))
	return err
}
