package controller

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	// eventsMost bounds the distinct events that wait to be written; beyond it
	// new ones are dropped, because nothing may wait for an event.
	eventsMost = 4096
	// eventsKnown bounds how many written events are remembered, to count them up.
	eventsKnown = 4096
	// eventWriters bounds the writes under way.
	eventWriters = 16
	// One source may write eventBurst events about one object, and then one per
	// eventRefill, as upstream limits them.
	eventBurst  = 25
	eventRefill = 5 * time.Minute
)

// Recorder writes events: what a controller did to an object and why, for people
// to read. They are best effort. A repeated event becomes a higher count of the
// one that is stored; a write that fails is not tried again.
type Recorder struct {
	registry *resource.Registry
	log      *slog.Logger

	arrived chan struct{} // holds a token when events wait
	mu      sync.Mutex
	waiting map[eventKey]*pendingEvent
	order   []eventKey
	dropped int
	stamp   int64 // of the last new event, in nanoseconds; unique

	known  *lru.Cache // eventKey → storedEvent; Run only
	limits *lru.Cache // limitKey → *rate.Limiter; under mu
}

// eventKey is the same for events that count as one.
type eventKey struct {
	component            string
	kind, namespace      string
	name                 string
	uid                  types.UID
	typ, reason, message string
}

type limitKey struct {
	component string
	kind      string
	uid       types.UID
}

type pendingEvent struct {
	count       int32
	first, last metav1.Time
	stamp       int64
	about       corev1.ObjectReference
}

type storedEvent struct{ namespace, name string }

// NewRecorder makes a recorder for one term; events are written while Run runs.
func NewRecorder(registry *resource.Registry, log *slog.Logger) *Recorder {
	return &Recorder{
		registry: registry,
		log:      log,
		arrived:  make(chan struct{}, 1),
		waiting:  make(map[eventKey]*pendingEvent),
		known:    lru.New(eventsKnown),
		limits:   lru.New(eventsKnown),
	}
}

// Source is a recorder for one component, named in its events.
type Source struct {
	recorder  *Recorder
	component string
}

// Source returns the recorder for a component.
func (r *Recorder) Source(component string) Source { return Source{r, component} }

// Event notes an event about an object. It never waits.
func (s Source) Event(spec *store.Spec, about store.Object, typ, reason, message string) {
	key := eventKey{
		component: s.component,
		kind:      spec.Kind.Kind, namespace: about.GetNamespace(), name: about.GetName(), uid: about.GetUID(),
		typ: typ, reason: reason, message: message,
	}
	s.recorder.note(key, corev1.ObjectReference{
		Kind:            spec.Kind.Kind,
		APIVersion:      spec.Kind.GroupVersion().String(),
		Namespace:       about.GetNamespace(),
		Name:            about.GetName(),
		UID:             about.GetUID(),
		ResourceVersion: about.GetResourceVersion(),
	}, time.Now())
}

func (r *Recorder) note(key eventKey, about corev1.ObjectReference, at time.Time) {
	now := metav1.NewTime(at)
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.waiting[key]; p != nil {
		p.count++
		p.last = now
		return
	}
	if !r.allow(limitKey{key.component, key.kind, key.uid}, at) {
		return
	}
	if len(r.order) >= eventsMost {
		r.dropped++
		return
	}
	r.stamp = max(r.stamp+1, at.UnixNano())
	r.waiting[key] = &pendingEvent{count: 1, first: now, last: now, stamp: r.stamp, about: about}
	r.order = append(r.order, key)
	select {
	case r.arrived <- struct{}{}:
	default:
	}
}

func (r *Recorder) allow(key limitKey, at time.Time) bool {
	limiter, ok := r.limits.Get(key)
	if !ok {
		limiter = rate.NewLimiter(rate.Every(eventRefill), eventBurst)
		r.limits.Add(key, limiter)
	}
	return limiter.(*rate.Limiter).AllowN(at, 1)
}

// Run writes events until ctx ends; those that wait then are lost.
func (r *Recorder) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.arrived:
		}
		r.mu.Lock()
		waiting, order, dropped := r.waiting, r.order, r.dropped
		r.waiting, r.order, r.dropped = make(map[eventKey]*pendingEvent), nil, 0
		r.mu.Unlock()
		if dropped > 0 {
			r.log.Warn("events dropped: too many wait to be written", "dropped", dropped)
		}
		var g errgroup.Group
		g.SetLimit(eventWriters)
		for _, key := range order {
			if ctx.Err() != nil {
				break
			}
			g.Go(func() error {
				if err := r.write(ctx, key, waiting[key]); err != nil && ctx.Err() == nil {
					r.log.Debug("event not written", "about", key.namespace+"/"+key.name, "reason", key.reason, "err", err)
				}
				return nil
			})
		}
		_ = g.Wait() // errors are handled where they occur
	}
}

func (r *Recorder) write(ctx context.Context, key eventKey, p *pendingEvent) error {
	if at, ok := r.known.Get(key); ok {
		stored := at.(storedEvent)
		_, _, err := r.registry.Update(ctx, resource.Events, stored.namespace, stored.name, "", func(current store.Object) (store.Object, error) {
			event := current.(*corev1.Event)
			if event.UID == "" { // expired meanwhile; an update would create it
				return nil, apierrors.NewNotFound(store.Events.Resource, stored.name)
			}
			event.Count += p.count
			event.LastTimestamp = p.last
			return event, nil
		}, resource.UpdateOptions{})
		if !apierrors.IsNotFound(err) {
			return err
		}
	}
	event := newEvent(key, p)
	if _, err := r.registry.Create(ctx, resource.Events, event.Namespace, event, resource.CreateOptions{}); err != nil {
		return fmt.Errorf("create event %s: %w", event.Name, err)
	}
	r.known.Add(key, storedEvent{event.Namespace, event.Name})
	return nil
}

// newEvent words an event as upstream's recorders do.
func newEvent(key eventKey, p *pendingEvent) *corev1.Event {
	namespace := key.namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace,
			Name:      fmt.Sprintf("%s.%x", key.name, p.stamp),
		},
		InvolvedObject:      p.about,
		Reason:              key.reason,
		Message:             key.message,
		Source:              corev1.EventSource{Component: key.component},
		FirstTimestamp:      p.first,
		LastTimestamp:       p.last,
		Count:               p.count,
		Type:                key.typ,
		ReportingController: key.component,
	}
}
