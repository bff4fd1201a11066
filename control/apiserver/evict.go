package apiserver

import (
	"fmt"
	"net/http"

	policyv1 "k8s.io/api/policy/v1"
	policyv1beta1 "k8s.io/api/policy/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/resource"
)

var evictionKind = policyv1.SchemeGroupVersion.WithKind("Eviction")

// evict serves pods/eviction: it deletes a pod if budgets allow.
func (s *Server) evict(w http.ResponseWriter, r *http.Request, c *call) error {
	out, err := negotiate(r)
	if err != nil {
		return err
	}
	options, err := createOptions(r)
	if err != nil {
		return err
	}
	eviction, err := decodeEviction(r, fieldValidation(options.FieldValidation))
	if err != nil {
		return err
	}
	if err := s.registry.Evict(r.Context(), c.namespace, c.name, eviction, resource.CreateOptions{
		DryRun: len(options.DryRun) > 0, FieldManager: options.FieldManager, FieldValidation: options.FieldValidation,
	}); err != nil {
		return err
	}
	return s.send(w, r, http.StatusCreated, statusKind, &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusCreated}, out)
}

// decodeEviction reads one of policy/v1, or of v1beta1 as old clients send it,
// which says the same.
func decodeEviction(r *http.Request, directive string) (*policyv1.Eviction, error) {
	info, err := serializer(r)
	if err != nil {
		return nil, err
	}
	body, err := readBody(r)
	if err != nil {
		return nil, err
	}
	obj, actual, err := decodeAny(r.Context(), info, body, evictionKind, nil, directive)
	if err != nil {
		return nil, err
	}
	switch eviction := obj.(type) {
	case *policyv1.Eviction:
		return eviction, nil
	case *policyv1beta1.Eviction:
		return &policyv1.Eviction{ObjectMeta: eviction.ObjectMeta, DeleteOptions: eviction.DeleteOptions}, nil
	}
	return nil, apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s", actual.Kind, actual.Version, evictionKind.Kind))
}
