// Package autoscaling sets how many replicas the targets of HorizontalPodAutoscalers
// have, by what the metrics APIs of the cluster say. Who measures is not its business:
// an API that nobody serves is an error that the autoscaler's conditions tell. A
// target is any kind with a scale, also one that users defined.
package autoscaling

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	workers = 5
	// every is how often each autoscaler is looked at. Nothing tells of new measurements.
	every = 15 * time.Second
)

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	// API is how the cluster's own API is asked for metrics.
	API    *rest.Config
	Logger *slog.Logger
}

// Controller scales.
type Controller struct {
	registry *resource.Registry
	caches   *controller.Caches
	events   controller.Source
	metrics  *metrics
	scalers  *store.Cache[*autoscalingv2.HorizontalPodAutoscaler]
	loop     *controller.Loop[types.NamespacedName]

	mu    sync.Mutex
	known map[types.NamespacedName]*known
}

// known is what is remembered of an autoscaler. One reconcile at a time has it, except for
// pods, which the controller's lock guards.
type known struct {
	uid types.UID
	history
	pods labels.Selector
}

// New listens to the caches, which must not run yet.
func New(cfg Config) (*Controller, error) {
	metrics, err := newMetrics(cfg.Registry, cfg.API)
	if err != nil {
		return nil, err
	}
	c := &Controller{
		registry: cfg.Registry, caches: cfg.Caches, events: cfg.Events.Source("horizontal-pod-autoscaler"), metrics: metrics,
		scalers: store.NewCache[*autoscalingv2.HorizontalPodAutoscaler](cfg.Registry.Store(), store.HorizontalPodAutoscalers, nil),
		known:   map[types.NamespacedName]*known{},
	}
	c.loop = controller.NewLoop("autoscaling", workers, cfg.Logger, c.reconcile)
	c.scalers.OnChange(func(old, now *autoscalingv2.HorizontalPodAutoscaler) {
		switch {
		case now == nil:
			c.loop.Add(types.NamespacedName{Namespace: old.Namespace, Name: old.Name})
		case old == nil || old.Generation != now.Generation: // not for a status, which is its own
			c.loop.Add(types.NamespacedName{Namespace: now.Namespace, Name: now.Name})
		}
	})
	return c, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.scalers.Run(ctx) })
	group.Go(func() error {
		select {
		case <-c.scalers.Synced():
		case <-ctx.Done():
		}
		if !c.caches.Synced(ctx) {
			return nil
		}
		return c.loop.Run(ctx)
	})
	return group.Wait()
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	// All that is stored by now, such as the status that was written last.
	for _, wait := range []func(context.Context, uint64) error{c.scalers.WaitRevision, c.caches.Pods.WaitRevision} {
		if err := wait(ctx, c.registry.Store().Revision()); err != nil {
			return err
		}
	}
	stored, ok := c.scalers.Get(key.Namespace, key.Name)
	if !ok {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.known, key)
		return nil
	}
	c.loop.AddAfter(key, every)
	hpa := stored.DeepCopy()
	scaled := c.scale(ctx, hpa, c.remember(key, hpa.UID))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !apiequality.Semantic.DeepEqual(stored.Status, hpa.Status) {
		if _, err := controller.WriteStatus(ctx, c.registry, resource.HorizontalPodAutoscalers, stored, func(now *autoscalingv2.HorizontalPodAutoscaler) {
			now.Status = hpa.Status
		}); err != nil {
			c.event(stored, corev1.EventTypeWarning, "FailedUpdateStatus", err.Error())
			return err
		}
	}
	return scaled
}

// remember finds what is known of an autoscaler.
func (c *Controller) remember(key types.NamespacedName, uid types.UID) *known {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.known[key]
	if k == nil || k.uid != uid {
		k = &known{uid: uid, pods: labels.Nothing()}
		c.known[key] = k
	}
	return k
}

func (c *Controller) event(hpa *autoscalingv2.HorizontalPodAutoscaler, typ, reason, message string) {
	c.events.Event(store.HorizontalPodAutoscalers, hpa, typ, reason, message)
}

// scale brings the target of an autoscaler to what its metrics ask for, and says in its
// status what came of it. What only the next look may mend is no error.
func (c *Controller) scale(ctx context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler, k *known) error {
	kind, target, err := c.target(ctx, hpa)
	if err != nil {
		c.event(hpa, corev1.EventTypeWarning, "FailedGetScale", err.Error())
		condition(hpa, autoscalingv2.AbleToScale, false, "FailedGetScale", fmt.Sprintf("the HPA controller was unable to get the target's current scale: %v", err))
		return nil
	}
	condition(hpa, autoscalingv2.AbleToScale, true, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	current := target.Spec.Replicas
	if len(k.wishes) == 0 {
		k.wishes = []moment{{time.Now(), current}}
	}
	replicas, reason, byMetrics := unmeasured(hpa, current)
	var measured []autoscalingv2.MetricStatus
	if byMetrics {
		var wish proposal
		if wish, measured, err = c.ask(ctx, hpa, target, k); err != nil {
			status(hpa, current, hpa.Status.DesiredReplicas, measured)
			c.event(hpa, corev1.EventTypeWarning, "FailedComputeMetricsReplicas", err.Error())
			return nil
		}
		replicas, reason = decide(hpa, current, wish, &k.history, time.Now())
	}
	if replicas == current {
		status(hpa, current, replicas, measured)
		return nil
	}
	if err := c.rescale(ctx, kind, target, replicas); err != nil {
		if apierrors.IsConflict(err) {
			return err // somebody else changed the scale: all of this is to be thought over
		}
		c.event(hpa, corev1.EventTypeWarning, "FailedRescale", fmt.Sprintf("New size: %d; reason: %s; error: %v", replicas, reason, err))
		condition(hpa, autoscalingv2.AbleToScale, false, "FailedUpdateScale", fmt.Sprintf("the HPA controller was unable to update the target scale: %v", err))
		status(hpa, current, hpa.Status.DesiredReplicas, measured)
		return nil
	}
	now := metav1.Now()
	c.event(hpa, corev1.EventTypeNormal, "SuccessfulRescale", fmt.Sprintf("New size: %d; reason: %s", replicas, reason))
	k.scaled(hpa.Spec.Behavior, current, replicas, now.Time)
	rescaled(hpa, current, replicas)
	status(hpa, current, replicas, measured)
	hpa.Status.LastScaleTime = &now
	return nil
}

// target finds what an autoscaler scales.
func (c *Controller) target(ctx context.Context, hpa *autoscalingv2.HorizontalPodAutoscaler) (*resource.Kind, *autoscalingv1.Scale, error) {
	ref := hpa.Spec.ScaleTargetRef
	version, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, nil, err
	}
	gk := version.WithKind(ref.Kind).GroupKind()
	kind := kindOf(c.registry, gk)
	if kind == nil {
		return nil, nil, &meta.NoKindMatchError{GroupKind: gk}
	}
	if kind.Scale == nil {
		return nil, nil, apierrors.NewGenericServerResponse(404, "get", kind.Spec.Resource, ref.Name, "", 0, false)
	}
	obj, err := c.registry.Store().Table(kind.Spec).Get(ctx, hpa.Namespace, ref.Name)
	if errors.Is(err, store.ErrNotFound) {
		err = apierrors.NewNotFound(kind.Spec.Resource, ref.Name)
	}
	if err != nil {
		return nil, nil, err
	}
	if kind.Scale.Missing != nil {
		if err := kind.Scale.Missing(obj); err != nil {
			return nil, nil, err
		}
	}
	return kind, kind.ScaleOf(obj), nil
}

// rescale changes the very scale that was read: who meanwhile wanted another number
// knew something that was not looked at.
func (c *Controller) rescale(ctx context.Context, kind *resource.Kind, read *autoscalingv1.Scale, replicas int32) error {
	_, err := c.registry.UpdateScale(ctx, kind, read.Namespace, read.Name, func(now *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		if now.UID != read.UID || now.Spec.Replicas != read.Spec.Replicas {
			return nil, apierrors.NewConflict(kind.Spec.Resource, read.Name, errors.New("the scale changed meanwhile"))
		}
		now.Spec.Replicas = replicas
		return now, nil
	}, resource.UpdateOptions{})
	return err
}
