package apiserver

import (
	"fmt"
	"net/http"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// create stores a new object.
func (s *Server) create(w http.ResponseWriter, r *http.Request, c *call) error {
	out, err := c.negotiate(r, asTable, asPartial)
	if err != nil {
		return err
	}
	options, err := createOptions(r)
	if err != nil {
		return err
	}
	obj := c.kind.Spec.New()
	if err := decodeObject(r, c.kind, obj, fieldValidation(options.FieldValidation)); err != nil {
		return err
	}
	created, err := s.registry.Create(r.Context(), c.kind, c.namespace, obj, resource.CreateOptions{
		DryRun: len(options.DryRun) > 0, FieldManager: fieldManager(r, options.FieldManager), FieldValidation: options.FieldValidation,
	})
	if err != nil {
		return err
	}
	return s.sendObject(w, r, http.StatusCreated, c, created, out)
}

func createOptions(r *http.Request) (*metav1.CreateOptions, error) {
	options := &metav1.CreateOptions{}
	if err := decodeQuery(r.URL.Query(), options); err != nil {
		return nil, err
	}
	return options, invalidOptions("CreateOptions", metav1validation.ValidateCreateOptions(options))
}

func invalidOptions(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

// bind serves pods/binding, and bindings by themselves: it gives a pod to a node.
func (s *Server) bind(w http.ResponseWriter, r *http.Request, c *call) error {
	out, err := negotiate(r)
	if err != nil {
		return err
	}
	options, err := createOptions(r)
	if err != nil {
		return err
	}
	binding := &corev1.Binding{}
	if err := decodeBody(r, corev1.SchemeGroupVersion.WithKind("Binding"), binding, fieldValidation(options.FieldValidation)); err != nil {
		return err
	}
	how := resource.CreateOptions{DryRun: len(options.DryRun) > 0, FieldManager: options.FieldManager, FieldValidation: options.FieldValidation}
	if c.kind == nil {
		err = s.registry.CreateBinding(r.Context(), c.namespace, binding, how)
	} else {
		err = s.registry.Bind(r.Context(), c.namespace, c.name, binding, how)
	}
	if err != nil {
		return err
	}
	return s.send(w, r, http.StatusCreated, statusKind, &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated}, out)
}

var statusKind = schema.GroupVersionKind{Version: "v1", Kind: "Status"}

// update replaces an object, or the part of it that a subresource stands for.
func (s *Server) update(w http.ResponseWriter, r *http.Request, c *call) error {
	out, err := c.negotiate(r, asTable, asPartial)
	if err != nil {
		return err
	}
	options := &metav1.UpdateOptions{}
	if err := decodeQuery(r.URL.Query(), options); err != nil {
		return err
	}
	if err := invalidOptions("UpdateOptions", metav1validation.ValidateUpdateOptions(options)); err != nil {
		return err
	}
	directive := fieldValidation(options.FieldValidation)
	how := resource.UpdateOptions{
		DryRun: len(options.DryRun) > 0, FieldManager: fieldManager(r, options.FieldManager),
		FieldValidation: options.FieldValidation, MayCreate: s.mayCreate(r, c),
	}
	if isScale(c) {
		scale := &autoscalingv1.Scale{}
		if err := decodeBody(r, scaleKind, scale, directive); err != nil {
			return err
		}
		if err := checkName(c, scale); err != nil {
			return err
		}
		updated, err := s.registry.UpdateScale(r.Context(), c.kind, c.namespace, c.name, func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
			return scale.DeepCopy(), nil
		}, how)
		if err != nil {
			return err
		}
		out.as = ""
		return s.send(w, r, http.StatusOK, scaleKind, updated, out)
	}
	obj := c.kind.Spec.New()
	if err := decodeObject(r, c.kind, obj, directive); err != nil {
		return err
	}
	if err := checkName(c, obj); err != nil {
		return err
	}
	if uid := obj.GetUID(); uid != "" {
		how.Preconditions = &metav1.Preconditions{UID: &uid}
	}
	updated, created, err := s.registry.Update(r.Context(), c.kind, c.namespace, c.name, c.subresource, func(store.Object) (store.Object, error) {
		return obj.DeepCopyObject().(store.Object), nil
	}, how)
	if err != nil {
		return err
	}
	return s.sendObject(w, r, okOrCreated(created), c, updated, out)
}

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

func isScale(c *call) bool { return c.kind.Scale != nil && c.subresource == "scale" }

func okOrCreated(created bool) int {
	if created {
		return http.StatusCreated
	}
	return http.StatusOK
}

// checkName holds what an object says of itself against the path that it was
// sent to, and fills in its namespace.
func checkName(c *call, obj metav1.Object) error {
	switch obj.GetName() {
	case c.name:
	case "":
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: name must be provided", c.name))
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), c.name))
	}
	return rest.EnsureObjectNamespaceMatchesRequestNamespace(rest.ExpectedNamespaceForScope(c.namespace, c.kind.Namespaced()), obj)
}
