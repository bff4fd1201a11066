package apiserver

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/musterhq/muster/control/store"
)

// nodePaths are what of a kubelet's own paths there is below nodes/NAME/proxy.
var nodePaths = map[string]handler{
	"healthz":       (*Server).nodeHealth,
	"pods":          (*Server).nodePods,
	"containerLogs": (*Server).nodeLog,
}

// nodeHealth says whether the cluster hears the node.
func (s *Server) nodeHealth(w http.ResponseWriter, r *http.Request, c *call) error {
	found, err := s.local(c)
	if err != nil {
		return err
	}
	obj, err := store.Decode(c.kind.Spec, found.Item)
	if err != nil {
		return err
	}
	for _, condition := range obj.(*corev1.Node).Status.Conditions {
		if condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue {
			s.write(w, r, http.StatusOK, "text/plain; charset=utf-8", []byte("ok"))
			return nil
		}
	}
	return apierrors.NewServiceUnavailable(fmt.Sprintf("node %s is not ready", c.name))
}

// nodePods lists the pods that the node should run.
func (s *Server) nodePods(w http.ResponseWriter, r *http.Request, c *call) error {
	page, err := s.store.Table(store.Pods).List(r.Context(), store.ListOptions{Fields: fields.OneTermEqualSelector("spec.nodeName", c.name)})
	if err != nil {
		return err
	}
	list := &corev1.PodList{}
	for _, item := range page.Items {
		obj, err := store.Decode(store.Pods, item)
		if err != nil {
			return err
		}
		list.Items = append(list.Items, *obj.(*corev1.Pod))
	}
	return s.send(w, r, http.StatusOK, corev1.SchemeGroupVersion.WithKind("PodList"), list, plain)
}

// nodeLog is pods/log of a pod on the node: containerLogs/NAMESPACE/POD/CONTAINER.
func (s *Server) nodeLog(w http.ResponseWriter, r *http.Request, c *call) error {
	parts := strings.Split(strings.Trim(c.rest, "/"), "/")
	if len(parts) != 4 {
		return errPathNotFound
	}
	log := &call{kind: s.registry.Kind(store.Pods.Resource)}
	log.namespace, log.name = parts[1], parts[2]
	pod, err := s.pod(r.Context(), log)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName != c.name {
		return apierrors.NewNotFound(store.Pods.Resource, log.name)
	}
	r = r.Clone(r.Context())
	query := r.URL.Query()
	query.Set("container", parts[3])
	r.URL = &url.URL{Path: r.URL.Path, RawQuery: query.Encode()}
	return s.podLog(w, r, log)
}
