package dispatch

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

const (
	// eventsEach: one event is stored at a time, of all agents, and one more for each so
	// many that wait. Statuses, and everything else that the cluster waits for, go first:
	// when many pods start half of what agents say is events.
	eventsEach = 1 << 12
	// eventsMost bounds those that wait; further ones are lost.
	eventsMost = 1 << 15
	// eventsPatience is how long others wait for one that is being stored, and
	// eventsSlow how many may be that take longer: a webhook may not answer.
	eventsPatience = time.Second
	eventsSlow     = 64
)

// agentEvent is an event that an agent asks for.
type agentEvent struct {
	node   string
	report *agentv1.EventReport
	at     time.Time
}

// queueEvent has an event stored; nobody waits for that.
func (d *Dispatcher) queueEvent(node string, report *agentv1.EventReport) {
	select {
	case d.events <- agentEvent{node, report, time.Now()}:
	default:
		d.eventsLost.Add(1)
	}
}

// storeEvents stores what waits, until ctx ends.
func (d *Dispatcher) storeEvents(ctx context.Context) {
	takeEvents(ctx, d.events, func(e agentEvent) {
		if lost := d.eventsLost.Swap(0); lost > 0 {
			d.log.Warn("agents say more than can be stored: events are lost", "events", lost)
		}
		if err := d.storeEvent(ctx, e); err != nil {
			d.log.Debug("event not stored", "node", e.node, "reason", e.report.Reason, "error", err)
		}
	})
}

// takeEvents hands events to store, few at a time, until ctx ends and all calls of it have returned.
func takeEvents(ctx context.Context, events <-chan agentEvent, store func(agentEvent)) {
	var all errgroup.Group
	all.SetLimit(eventsSlow)
	defer func() { _ = all.Wait() }()
	for {
		var now []agentEvent
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			now = append(now, e)
		}
		for range len(events) / eventsEach { // nobody else takes any
			now = append(now, <-events)
		}
		stored := make(chan struct{}, len(now))
		for _, e := range now {
			all.Go(func() error {
				store(e)
				stored <- struct{}{}
				return nil
			})
		}
		late := time.After(eventsPatience)
		for waiting := len(now); waiting > 0; {
			select {
			case <-stored:
				waiting--
			case <-late:
				waiting = 0
			case <-ctx.Done():
				return
			}
		}
	}
}

// storeEvent stores an agent's event. The same thing said again about the same
// object counts up the first event, as Kubernetes' recorders do; the name is
// made from what it says, so that it is found again after a reconnect and on
// another control node.
func (d *Dispatcher) storeEvent(ctx context.Context, e agentEvent) error {
	node, report := e.node, e.report
	var regarding corev1.ObjectReference
	if err := regarding.Unmarshal(report.Regarding); err != nil {
		return fmt.Errorf("regarding: %w", err)
	}
	namespace := regarding.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	now := metav1.NewTime(e.at.UTC().Truncate(time.Second))
	source := corev1.EventSource{Component: "kubelet", Host: node}
	event := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: eventName(&regarding, source, report)},
		InvolvedObject: regarding, Type: report.Type, Reason: report.Reason, Message: report.Message,
		Source: source, FirstTimestamp: now, LastTimestamp: now, Count: 1,
		ReportingController: source.Component, ReportingInstance: node,
	}
	kind := d.cfg.Registry.Kind(store.Events.Resource)
	_, err := d.cfg.Registry.Create(ctx, kind, namespace, event, resource.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return err
	}
	_, _, err = d.cfg.Registry.Update(ctx, kind, namespace, event.Name, "", func(current store.Object) (store.Object, error) {
		again := current.(*corev1.Event)
		again.Count++
		again.LastTimestamp = now
		return again, nil
	}, resource.UpdateOptions{FieldManager: "muster-agent"})
	return err
}

func eventName(regarding *corev1.ObjectReference, source corev1.EventSource, report *agentv1.EventReport) string {
	h := fnv.New64a()
	for _, part := range []string{
		string(regarding.UID), regarding.FieldPath, source.Host, report.Type, report.Reason, report.Message,
	} {
		_, _ = h.Write([]byte(part))
		_, _ = h.Write([]byte{0})
	}
	return fmt.Sprintf("%s.%x%015x", regarding.Name, course(report.Reason), h.Sum64()>>4)
}

// course is later for what happens later in a container's life. Times of events
// are whole seconds, and clients show those of one second in the order of their
// names. It comes after the first digit, 1, of the names of the scheduler's
// events, which are times.
func course(reason string) int {
	if at := slices.Index([]string{"Pulling", "Pulled", "Created", "Started"}, reason); at >= 0 {
		return 2 + at
	}
	return 8
}
