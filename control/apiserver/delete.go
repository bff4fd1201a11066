package apiserver

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/musterhq/muster/control/audit"
	"github.com/musterhq/muster/control/store"
)

// delete removes an object or marks it as being deleted.
func (s *Server) delete(w http.ResponseWriter, r *http.Request, c *call) error {
	out, err := c.negotiate(r, asTable, asPartial)
	if err != nil {
		return err
	}
	options, err := deleteOptions(r)
	if err != nil {
		return err
	}
	obj, gone, err := s.registry.Delete(r.Context(), c.kind, c.namespace, c.name, options)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if !gone && options.OrphanDependents != nil && !*options.OrphanDependents { //nolint:staticcheck // old clients send it
		code = http.StatusAccepted
	}
	if gone && !c.kind.ReturnDeletedObject {
		out.as = ""
		return s.send(w, r, code, statusKind, &metav1.Status{
			Status: metav1.StatusSuccess,
			Details: &metav1.StatusDetails{
				Name: c.name, Group: c.kind.Qualified().Group, Kind: c.kind.Qualified().Resource, UID: obj.GetUID(),
			},
		}, out)
	}
	return s.sendObject(w, r, code, c, obj, out)
}

// deleteOptions reads the options of a delete from its body, if it has one, or
// from the query.
func deleteOptions(r *http.Request) (*metav1.DeleteOptions, error) {
	options := &metav1.DeleteOptions{}
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	if len(body) > 0 {
		info, err := serializer(r)
		if err != nil {
			return nil, err
		}
		if err := decodeDeleteOptions(info.MediaType, body, options); err != nil {
			return nil, err
		}
	} else if err := decodeQuery(r.URL.Query(), options); err != nil {
		return nil, err
	}
	if len(body) > 0 {
		audit.From(r.Context()).Sent(options, metav1.SchemeGroupVersion.WithKind("DeleteOptions"))
	}
	options.IgnoreStoreReadErrorWithClusterBreakingPotential = nil
	return options, invalidOptions("DeleteOptions", metav1validation.ValidateDeleteOptions(options))
}

// decodeDeleteOptions takes DeleteOptions of any group and version: clients send
// meta.k8s.io/v1, v1, or that of the kind that they delete, and all are the same.
func decodeDeleteOptions(media string, body []byte, options *metav1.DeleteOptions) error {
	kind := metav1.SchemeGroupVersion.WithKind("DeleteOptions")
	if media == mediaProtobuf {
		unknown := runtime.Unknown{}
		raw, ok := bytes.CutPrefix(body, []byte(protobufMagic))
		if !ok {
			return undecodable(errors.New("the body is not in Kubernetes' protobuf"), kind, nil, body)
		}
		if err := unknown.Unmarshal(raw); err != nil {
			return undecodable(err, kind, nil, body)
		}
		if err := options.Unmarshal(unknown.Raw); err != nil {
			return undecodable(err, kind, nil, body)
		}
		options.Kind = unknown.Kind
	} else {
		if media == mediaYAML {
			var err error
			if body, err = yaml.YAMLToJSON(body); err != nil {
				return undecodable(err, kind, nil, body)
			}
		}
		if err := kjson.UnmarshalCaseSensitivePreserveInts(body, options); err != nil {
			return undecodable(err, kind, nil, body)
		}
	}
	if options.Kind != "" && options.Kind != kind.Kind {
		return badRequest(errors.New("decoded object cannot be converted to DeleteOptions"))
	}
	return nil
}

// deleteCollection deletes what is selected and answers with what that was.
func (s *Server) deleteCollection(w http.ResponseWriter, r *http.Request, c *call) error {
	out, err := c.negotiate(r, asTable, asPartialList)
	if err != nil {
		return err
	}
	selected, err := listOptions(r, c.kind)
	if err != nil {
		return err
	}
	options, err := deleteOptions(r)
	if err != nil {
		return err
	}
	deleted, revision, err := s.registry.DeleteCollection(r.Context(), c.kind, options, store.ListOptions{
		Namespace: c.namespace, Labels: selected.LabelSelector, Fields: selected.FieldSelector,
	})
	if err != nil {
		return err
	}
	list := c.kind.Spec.NewList()
	objects := make([]runtime.Object, 0, len(deleted))
	for _, obj := range deleted {
		objects = append(objects, obj)
	}
	if err := meta.SetList(list, objects); err != nil {
		return err
	}
	accessor, err := meta.ListAccessor(list)
	if err != nil {
		return err
	}
	accessor.SetResourceVersion(strconv.FormatUint(revision, 10))
	out.as = ""
	return s.send(w, r, http.StatusOK, c.kind.ListGroupVersionKind(), list, out)
}
