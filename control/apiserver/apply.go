package apiserver

import (
	"context"
	"fmt"
	"net/http"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// apply is a server-side apply: the fields that its manager wants, and wants to
// have alone.
type apply struct {
	ctx       context.Context
	manager   string
	force     bool
	body      []byte
	directive string
}

// config reads what is applied. It is unstructured, as a field that is there
// with its zero value is owned too.
func (a *apply) config() (*unstructured.Unstructured, error) {
	config := &unstructured.Unstructured{Object: map[string]any{}}
	if err := yaml.Unmarshal(a.body, &config.Object); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	return config, nil
}

// to makes what current becomes. An object without a uid is not there yet.
func (a *apply) to(kind *resource.Kind, subresource string, current store.Object) (store.Object, error) {
	config, err := a.config()
	if err != nil {
		return nil, err
	}
	obj, err := kind.Apply(subresource, current, config, a.manager, a.force)
	if err != nil {
		return nil, err
	}
	return obj, a.strict()
}

// toScale makes what a scale becomes.
func (a *apply) toScale(current *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
	config, err := a.config()
	if err != nil {
		return nil, err
	}
	scale, err := resource.ApplyScale(current, config, a.manager, a.force)
	if err != nil {
		return nil, err
	}
	return scale, a.strict()
}

// strict finds fields that are there twice. Unknown ones do not get here: the
// schema refuses them.
func (a *apply) strict() error {
	if a.directive == metav1.FieldValidationIgnore {
		return nil
	}
	err := yaml.UnmarshalStrict(a.body, &map[string]any{})
	switch {
	case err == nil:
		return nil
	case a.directive == metav1.FieldValidationWarn:
		warnStrict(a.ctx, []error{err})
		return nil
	}
	return apierrors.NewBadRequest(fmt.Sprintf("error strict decoding patch: %v", err))
}

// mayCreate asks whether who sent r may create what it names: an update or an
// apply that finds nothing does.
func (s *Server) mayCreate(r *http.Request, c *call) func(context.Context) error {
	return func(ctx context.Context) error {
		who, ok := genericrequest.UserFrom(ctx)
		if !ok {
			return errUnauthorized
		}
		create := c.target
		create.verb = "create"
		return s.authorize(r, who, create)
	}
}
