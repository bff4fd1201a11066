package autoscaling

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	kinds "github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// The APIs that tell what is measured. None is served by the cluster itself: they come
// with services such as metrics-server.
var (
	resourceMetrics = schema.GroupVersion{Group: "metrics.k8s.io", Version: "v1beta1"}
	customMetrics   = schema.GroupVersion{Group: "custom.metrics.k8s.io", Version: "v1beta2"}
	customMetricsV1 = schema.GroupVersion{Group: "custom.metrics.k8s.io", Version: "v1beta1"}
	externalMetrics = schema.GroupVersion{Group: "external.metrics.k8s.io", Version: "v1beta1"}
)

const (
	// answerTimeout bounds each question.
	answerTimeout = 10 * time.Second
	// windowDefault is over what a value was measured that does not say so.
	windowDefault = time.Minute
)

// metrics asks the metrics APIs through the cluster's API, so that it does not matter
// who serves them.
type metrics struct {
	registry *kinds.Registry
	clients  map[schema.GroupVersion]rest.Interface
}

func newMetrics(registry *kinds.Registry, api *rest.Config) (*metrics, error) {
	m := &metrics{registry: registry, clients: map[schema.GroupVersion]rest.Interface{}}
	for _, version := range []schema.GroupVersion{resourceMetrics, customMetrics, customMetricsV1, externalMetrics} {
		config := rest.CopyConfig(api)
		config.APIPath, config.GroupVersion = "/apis", &version
		config.AcceptContentTypes, config.ContentType = "application/json", "application/json"
		config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
		config.QPS = -1 // as often as autoscalers are looked at, and no more
		client, err := rest.RESTClientFor(config)
		if err != nil {
			return nil, fmt.Errorf("ask for metrics: %w", err)
		}
		m.clients[version] = client
	}
	return m, nil
}

// podMetrics is what is read of a metrics.k8s.io PodMetrics.
type podMetrics struct {
	Metadata   metav1.ObjectMeta `json:"metadata"`
	Timestamp  metav1.Time       `json:"timestamp"`
	Window     metav1.Duration   `json:"window"`
	Containers []struct {
		Name  string              `json:"name"`
		Usage corev1.ResourceList `json:"usage"`
	} `json:"containers"`
}

// metricValue is what is read of a value of the other two APIs, whose versions write the
// window in two ways.
type metricValue struct {
	DescribedObject struct {
		Name string `json:"name"`
	} `json:"describedObject"`
	Timestamp     metav1.Time       `json:"timestamp"`
	WindowSeconds *int64            `json:"windowSeconds"`
	Window        *int64            `json:"window"`
	Value         resource.Quantity `json:"value"`
}

// resource is how much of a resource pods use, or one container of each.
func (m *metrics) resource(ctx context.Context, name corev1.ResourceName, namespace string, pods labels.Selector, container string) (samples, error) {
	var list struct {
		Items []podMetrics `json:"items"`
	}
	request := m.clients[resourceMetrics].Get().Resource("pods").Namespace(namespace)
	if err := read(ctx, selecting(request, "labelSelector", pods), &list); err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from resource metrics API")
	}
	all := make(samples, len(list.Items))
	for _, pod := range list.Items {
		if used, ok := usage(pod, name, container); ok {
			all[pod.Metadata.Name] = sample{at: pod.Timestamp.Time, window: pod.Window.Duration, value: used}
		}
	}
	return all, nil
}

// usage is that of all containers or of one; not known unless all that count say it.
func usage(pod podMetrics, name corev1.ResourceName, container string) (used int64, ok bool) {
	for _, c := range pod.Containers {
		if container != "" && c.Name != container {
			continue
		}
		quantity, known := c.Usage[name]
		if !known {
			return 0, false
		}
		used, ok = used+quantity.MilliValue(), true
		if container != "" {
			break
		}
	}
	return used, ok
}

// pods is a metric of each of the pods.
func (m *metrics) pods(ctx context.Context, metric, namespace string, pods, of labels.Selector) (samples, error) {
	request := selecting(m.custom(ctx).Resource("pods").Namespace(namespace).Name("*").SubResource(metric), "labelSelector", pods)
	values, err := values(ctx, selecting(request, "metricLabelSelector", of), "custom")
	if err != nil {
		return nil, err
	}
	all := make(samples, len(values))
	for _, v := range values {
		window := windowDefault
		for _, s := range []*int64{v.WindowSeconds, v.Window} {
			if s != nil {
				window = time.Duration(*s) * time.Second
			}
		}
		all[v.DescribedObject.Name] = sample{at: v.Timestamp.Time, window: window, value: v.Value.MilliValue()}
	}
	return all, nil
}

// object is a metric of another object in the namespace, or of the namespace itself.
func (m *metrics) object(ctx context.Context, metric, namespace string, object *autoscalingv2.CrossVersionObjectReference, of labels.Selector) (int64, error) {
	gk := schema.FromAPIVersionAndKind(object.APIVersion, object.Kind).GroupKind()
	request := m.custom(ctx).Namespace(namespace)
	if gk.Group == "" && gk.Kind == store.Namespaces.Kind.Kind {
		request = request.Resource("metrics").Name(metric)
	} else {
		kind := kindOf(m.registry, gk)
		if kind == nil {
			return 0, fmt.Errorf("unable to fetch metrics from custom metrics API: unable to map kind %s to resource: %w", gk, &meta.NoKindMatchError{GroupKind: gk})
		}
		request = request.Resource(kind.Spec.Resource.String()).Name(object.Name).SubResource(metric)
	}
	values, err := values(ctx, selecting(request, "metricLabelSelector", of), "custom")
	if err != nil {
		return 0, err
	}
	if len(values) != 1 {
		return 0, fmt.Errorf("unable to fetch metrics from custom metrics API: the custom metrics API server returned %d results when we asked for exactly one", len(values))
	}
	return values[0].Value.MilliValue(), nil
}

// external are all values of a metric of something outside the cluster.
func (m *metrics) external(ctx context.Context, metric, namespace string, of labels.Selector) ([]int64, error) {
	values, err := values(ctx, selecting(m.clients[externalMetrics].Get().Namespace(namespace).Resource(metric), "labelSelector", of), "external")
	if err != nil {
		return nil, err
	}
	var all []int64
	for _, v := range values {
		all = append(all, v.Value.MilliValue())
	}
	return all, nil
}

// custom asks in the newest version that somebody serves.
func (m *metrics) custom(ctx context.Context) *rest.Request {
	version := customMetrics
	services := m.registry.Store().Table(store.APIServices)
	if _, err := services.Get(ctx, "", version.Version+"."+version.Group); err != nil {
		if _, err := services.Get(ctx, "", customMetricsV1.Version+"."+customMetricsV1.Group); err == nil {
			version = customMetricsV1
		}
	}
	return m.clients[version].Get()
}

func values(ctx context.Context, request *rest.Request, api string) ([]metricValue, error) {
	var list struct {
		Items []metricValue `json:"items"`
	}
	if err := read(ctx, request, &list); err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from %s metrics API: %w", api, err)
	}
	if len(list.Items) == 0 {
		return nil, fmt.Errorf("no metrics returned from %s metrics API", api)
	}
	return list.Items, nil
}

func selecting(request *rest.Request, parameter string, selector labels.Selector) *rest.Request {
	if text := selector.String(); text != "" {
		return request.Param(parameter, text)
	}
	return request
}

func read(ctx context.Context, request *rest.Request, into any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	answer, err := request.Do(ctx).Raw()
	if err != nil {
		return err
	}
	return json.Unmarshal(answer, into)
}

// kindOf finds a kind whatever its version, or nil.
func kindOf(registry *kinds.Registry, gk schema.GroupKind) *kinds.Kind {
	for _, kind := range registry.Kinds() {
		if kind.Spec.Kind.GroupKind() == gk {
			return kind
		}
	}
	return nil
}
