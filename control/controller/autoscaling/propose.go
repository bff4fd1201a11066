package autoscaling

import (
	"context"
	"errors"
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// proposal is what one metric asks for.
type proposal struct {
	replicas int32
	metric   string // in words
	status   autoscalingv2.MetricStatus
}

// failure is why a metric says nothing: a reason, and upstream's words for the
// condition and, with more around them, for the event.
type failure struct {
	reason string
	cause  error
	around string
}

func (f *failure) Error() string { return f.around + f.cause.Error() }

// source is whose pods are scaled, and where.
type source struct {
	namespace string
	pods      labels.Selector
	situation
}

// propose measures one metric and works out how many replicas it asks for.
func (m *metrics) propose(ctx context.Context, spec *autoscalingv2.MetricSpec, s *source) (proposal, *failure) {
	switch spec.Type {
	case autoscalingv2.ResourceMetricSourceType:
		r := spec.Resource
		value, p, err := m.proposeResource(ctx, r.Name, "", &r.Target, s)
		if err != nil {
			return proposal{}, &failure{"FailedGetResourceMetric", err, fmt.Sprintf("failed to get %s resource metric value: ", r.Name)}
		}
		p.metric = fmt.Sprintf("%s resource", r.Name)
		if r.Target.AverageValue == nil {
			p.metric = fmt.Sprintf("%s resource utilization (percentage of request)", r.Name)
		}
		p.status = autoscalingv2.MetricStatus{Type: spec.Type, Resource: &autoscalingv2.ResourceMetricStatus{Name: r.Name, Current: value}}
		return p, nil
	case autoscalingv2.ContainerResourceMetricSourceType:
		r := spec.ContainerResource
		value, p, err := m.proposeResource(ctx, r.Name, r.Container, &r.Target, s)
		if err != nil {
			return proposal{}, &failure{"FailedGetContainerResourceMetric", err, fmt.Sprintf("failed to get %s container metric value: ", r.Container)}
		}
		p.metric = fmt.Sprintf("%s resource", r.Name)
		if r.Target.AverageValue == nil {
			p.metric = fmt.Sprintf("%s container resource utilization (percentage of request)", r.Name)
		}
		p.status = autoscalingv2.MetricStatus{Type: spec.Type, ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{Name: r.Name, Container: r.Container, Current: value}}
		return p, nil
	case autoscalingv2.PodsMetricSourceType:
		return m.proposePods(ctx, spec.Pods, s)
	case autoscalingv2.ObjectMetricSourceType:
		return m.proposeObject(ctx, spec.Object, s)
	case autoscalingv2.ExternalMetricSourceType:
		return m.proposeExternal(ctx, spec.External, s)
	}
	return proposal{}, &failure{"InvalidMetricSourceType", fmt.Errorf("unknown metric source type %q", spec.Type), ""}
}

func (m *metrics) proposeResource(ctx context.Context, name corev1.ResourceName, container string, target *autoscalingv2.MetricTarget, s *source) (now autoscalingv2.MetricValueStatus, p proposal, err error) {
	what := "usage"
	if target.AverageValue == nil {
		what = "utilization"
	}
	if target.AverageValue == nil && target.AverageUtilization == nil {
		return now, p, errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	measured, err := m.resource(ctx, name, s.namespace, s.pods, container)
	if err != nil {
		return now, p, fmt.Errorf("failed to get %s %s: unable to get metrics for resource %s: %w", name, what, name, err)
	}
	var average int64
	if target.AverageValue != nil {
		p.replicas, average, err = s.byAverage(measured, name, target.AverageValue.MilliValue())
	} else {
		var percent int32
		p.replicas, percent, average, err = s.byUtilization(measured, name, container, *target.AverageUtilization)
		now.AverageUtilization = &percent
	}
	if err != nil {
		return now, p, fmt.Errorf("failed to get %s %s: %w", name, what, err)
	}
	format := resource.DecimalSI
	if name == corev1.ResourceMemory {
		format = resource.BinarySI // as metrics-server writes it
	}
	now.AverageValue = resource.NewMilliQuantity(average, format)
	return now, p, nil
}

func (m *metrics) proposePods(ctx context.Context, spec *autoscalingv2.PodsMetricSource, s *source) (proposal, *failure) {
	fail := func(err error) (proposal, *failure) {
		return proposal{}, &failure{"FailedGetPodsMetric", err, "failed to get pods metric value: "}
	}
	of, err := metav1.LabelSelectorAsSelector(spec.Metric.Selector)
	if err != nil {
		return fail(err)
	}
	measured, err := m.pods(ctx, spec.Metric.Name, s.namespace, s.pods, of)
	if err != nil {
		return fail(fmt.Errorf("unable to get metric %s: %w", spec.Metric.Name, err))
	}
	replicas, average, err := s.byAverage(measured, "", spec.Target.AverageValue.MilliValue())
	if err != nil {
		return fail(err)
	}
	return proposal{replicas, "pods metric " + spec.Metric.Name, autoscalingv2.MetricStatus{
		Type: autoscalingv2.PodsMetricSourceType,
		Pods: &autoscalingv2.PodsMetricStatus{Metric: spec.Metric, Current: autoscalingv2.MetricValueStatus{AverageValue: milli(average)}},
	}}, nil
}

func (m *metrics) proposeObject(ctx context.Context, spec *autoscalingv2.ObjectMetricSource, s *source) (proposal, *failure) {
	fail := func(err error, around string) (proposal, *failure) {
		return proposal{}, &failure{"FailedGetObjectMetric", err, "failed to get object metric value: " + around}
	}
	of, err := metav1.LabelSelectorAsSelector(spec.Metric.Selector)
	if err != nil {
		return fail(err, "")
	}
	around := ""
	if spec.Target.Type == autoscalingv2.AverageValueMetricType {
		around = fmt.Sprintf("failed to get %s object metric: ", spec.Metric.Name)
	}
	value, err := m.object(ctx, spec.Metric.Name, s.namespace, &spec.DescribedObject, of)
	if err != nil {
		return fail(fmt.Errorf("unable to get metric %s on %s %s/%s: %w", spec.Metric.Name, spec.DescribedObject.Kind, s.namespace, spec.DescribedObject.Name, err), around)
	}
	status := &autoscalingv2.ObjectMetricStatus{DescribedObject: spec.DescribedObject, Metric: spec.Metric}
	p := proposal{status: autoscalingv2.MetricStatus{Type: autoscalingv2.ObjectMetricSourceType, Object: status}}
	switch {
	case spec.Target.Type == autoscalingv2.ValueMetricType && spec.Target.Value != nil:
		if p.replicas, err = s.byValue(value, spec.Target.Value.MilliValue()); err != nil {
			return fail(fmt.Errorf("unable to get metric %s on %s %s/%s: %w", spec.Metric.Name, spec.DescribedObject.Kind, s.namespace, spec.DescribedObject.Name, err), "")
		}
		p.metric = spec.DescribedObject.Kind + " metric " + spec.Metric.Name
		status.Current.Value = milli(value)
	case spec.Target.Type == autoscalingv2.AverageValueMetricType && spec.Target.AverageValue != nil:
		var share int64
		p.replicas, share = s.byShare(value, spec.Target.AverageValue.MilliValue())
		p.metric = externally(spec.Metric)
		status.Current.AverageValue = milli(share)
	default:
		return fail(errors.New("invalid object metric source: neither a value target nor an average value target was set"), "")
	}
	return p, nil
}

func (m *metrics) proposeExternal(ctx context.Context, spec *autoscalingv2.ExternalMetricSource, s *source) (proposal, *failure) {
	fail := func(err error, around string) (proposal, *failure) {
		return proposal{}, &failure{"FailedGetExternalMetric", err, fmt.Sprintf("failed to get %s external metric value: ", spec.Metric.Name) + around}
	}
	if spec.Target.AverageValue == nil && spec.Target.Value == nil {
		return fail(errors.New("invalid external metric source: neither a value target nor an average value target was set"), "")
	}
	around := fmt.Sprintf("failed to get external metric %s: ", spec.Metric.Name)
	if spec.Target.AverageValue != nil {
		around = fmt.Sprintf("failed to get %s external metric: ", spec.Metric.Name)
	}
	of, err := metav1.LabelSelectorAsSelector(spec.Metric.Selector)
	if err != nil {
		return fail(err, around)
	}
	values, err := m.external(ctx, spec.Metric.Name, s.namespace, of)
	if err != nil {
		return fail(fmt.Errorf("unable to get external metric %s/%s/%+v: %w", s.namespace, spec.Metric.Name, spec.Metric.Selector, err), around)
	}
	value := sum(values)
	status := &autoscalingv2.ExternalMetricStatus{Metric: spec.Metric}
	p := proposal{metric: externally(spec.Metric), status: autoscalingv2.MetricStatus{Type: autoscalingv2.ExternalMetricSourceType, External: status}}
	if spec.Target.AverageValue != nil {
		var share int64
		p.replicas, share = s.byShare(value, spec.Target.AverageValue.MilliValue())
		status.Current.AverageValue = milli(share)
		return p, nil
	}
	if p.replicas, err = s.byValue(value, spec.Target.Value.MilliValue()); err != nil {
		return fail(err, around)
	}
	status.Current.Value = milli(value)
	return p, nil
}

func externally(m autoscalingv2.MetricIdentifier) string {
	return fmt.Sprintf("external metric %s(%+v)", m.Name, m.Selector)
}

func milli(value int64) *resource.Quantity {
	return resource.NewMilliQuantity(value, resource.DecimalSI)
}
