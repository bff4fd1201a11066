package apiserver

import (
	"context"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/kube"
)

// components are what clients of old look for: the scheduler and the controllers,
// which run on whichever control node leads, and the store. A word from the leader
// says that it leads, with a quorum, and so stands for all of them.
var components = []string{"scheduler", "controller-manager", "etcd-0"}

var (
	componentKind     = corev1.SchemeGroupVersion.WithKind("ComponentStatus")
	componentListKind = corev1.SchemeGroupVersion.WithKind("ComponentStatusList")
	componentResource = schema.GroupResource{Resource: "componentstatuses"}
)

// health asks once for all components.
func (s *Server) health(ctx context.Context) corev1.ComponentCondition {
	if err := s.barrier(ctx); err != nil {
		return corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionFalse, Message: "no word from a leader that has a quorum", Error: err.Error()}
	}
	return corev1.ComponentCondition{Type: corev1.ComponentHealthy, Status: corev1.ConditionTrue, Message: "ok"}
}

func componentStatus(name string, condition corev1.ComponentCondition) *corev1.ComponentStatus { //nolint:staticcheck // served all the same
	return &corev1.ComponentStatus{ObjectMeta: metav1.ObjectMeta{Name: name}, Conditions: []corev1.ComponentCondition{condition}} //nolint:staticcheck // served all the same
}

// getComponent answers one of componentstatuses.
func (s *Server) getComponent(w http.ResponseWriter, r *http.Request, c *call) error {
	for _, name := range components {
		if name == c.name {
			return s.sendComponents(w, r, componentKind, componentStatus(name, s.health(r.Context())))
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{Resource: "componentstatus"}, c.name)
}

// listComponents answers those that the selectors leave. They have no labels.
func (s *Server) listComponents(w http.ResponseWriter, r *http.Request, _ *call) error {
	options := metainternalversion.ListOptions{}
	if err := decodeQuery(r.URL.Query(), &options); err != nil {
		return err
	}
	condition := s.health(r.Context())
	list := &corev1.ComponentStatusList{Items: []corev1.ComponentStatus{}} //nolint:staticcheck // served all the same
	for _, name := range components {
		if options.LabelSelector != nil && !options.LabelSelector.Matches(labels.Set{}) ||
			options.FieldSelector != nil && !options.FieldSelector.Matches(fields.Set{"metadata.name": name}) {
			continue
		}
		list.Items = append(list.Items, *componentStatus(name, condition))
	}
	return s.sendComponents(w, r, componentListKind, list)
}

func (s *Server) sendComponents(w http.ResponseWriter, r *http.Request, kind schema.GroupVersionKind, obj runtime.Object) error {
	out, err := negotiateFor(r, func(out output) bool { return out.as == "" || offered(out, []string{asTable}) })
	if err != nil {
		return err
	}
	if out.as == "" {
		return s.send(w, r, http.StatusOK, kind, obj, out)
	}
	include, err := includeObject(r)
	if err != nil {
		return err
	}
	table, err := kube.Table(r.Context(), componentResource, obj)
	if err != nil {
		return err
	}
	if err := showObjects(table, include, componentKind, out.meta); err != nil {
		return err
	}
	return s.send(w, r, http.StatusOK, out.meta.WithKind(asTable), table, out)
}
