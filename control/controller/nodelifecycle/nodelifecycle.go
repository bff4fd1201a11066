// Package nodelifecycle judges nodes. When neither a session nor gossip has
// heard of a node's agent for a moment, the node's Ready condition becomes
// Unknown; taints follow conditions; pods that do not tolerate a NoExecute taint,
// or not for so long, are deleted; those that must not run twice are removed
// when their agent has certainly stopped them (package fencing). What replaces
// them is their controllers' business; that a node is well is its agent's to say.
//
// Nothing is written for a heartbeat: an agent that is heard costs no write.
package nodelifecycle

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// Presence is what is known of agents beside the store, merged from the sessions
// on all control nodes and from gossip.
type Presence interface {
	// Alive says by which signals a node's agent is heard now.
	Alive(node string) (session, gossip bool)
	// SilentFor is for how long a node's agent had said nothing when its session
	// ended; 0 when the connection broke.
	SilentFor(node string) time.Duration
	// Ready is true once a new leader has heard from every control node that it
	// can reach, so that absence means something.
	Ready() bool
	// Changed is closed when an answer of Alive or Ready may have changed.
	Changed() <-chan struct{}
}

const (
	// graceDefault is how long a node that gossip does not hear may have no session:
	// longer than an agent needs to move it to another control node.
	graceDefault = 1500 * time.Millisecond
	// sessionGraceDefault is how long a node may be known from gossip only. Its
	// agent lives, but says nothing of its pods and hears of no new ones.
	sessionGraceDefault = 40 * time.Second
	// lookEvery is the least time between two looks at all nodes' signals.
	lookEvery = 20 * time.Millisecond
	// settleMost bounds the wait for Presence.Ready.
	settleMost = 5 * time.Second

	workers = 8
	// writers bounds the pods of one node that are written at a time.
	writers = 32
	// evictors bounds the pods that are evicted at a time.
	evictors = 64
)

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	Presence Presence
	// Grace is how long a node that gossip does not hear may have no session, 0 for
	// the default.
	Grace time.Duration
	// SessionGrace is how long it may be known from gossip only, 0 for the default.
	SessionGrace time.Duration
	Logger       *slog.Logger
}

// Controller judges the nodes and evicts from those that are lost.
type Controller struct {
	registry *resource.Registry
	caches   *controller.Caches
	events   controller.Source
	presence Presence
	log      *slog.Logger

	silences  *silences
	settled   atomic.Bool // absence means something
	nodes     *controller.Loop[string]
	evictions *controller.Loop[types.NamespacedName]
	taints    *taintTimes

	attendance *attendance
	fences     *controller.Loop[types.NamespacedName]
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	if cfg.Grace <= 0 {
		cfg.Grace = graceDefault
	}
	if cfg.SessionGrace <= 0 {
		cfg.SessionGrace = sessionGraceDefault
	}
	c := &Controller{
		registry: cfg.Registry,
		caches:   cfg.Caches,
		events:   cfg.Events.Source("node-controller"),
		presence: cfg.Presence,
		log:      cfg.Logger,
		silences: newSilences(cfg.Grace, cfg.SessionGrace),
		taints:   newTaintTimes(),

		attendance: newAttendance(),
	}
	c.nodes = controller.NewLoop("nodelifecycle", workers, cfg.Logger, c.reconcile)
	c.evictions = controller.NewLoop("eviction", evictors, cfg.Logger, c.evict)
	c.fences = controller.NewLoop("fence", evictors, cfg.Logger, c.fence)
	c.caches.Nodes.OnChange(c.onNode)
	c.caches.Pods.OnChange(c.onPod)
	return c
}

// Run judges and evicts until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !c.caches.Synced(ctx) {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.listen(ctx) })
	g.Go(func() error { return c.nodes.Run(ctx) })
	g.Go(func() error {
		// A leader that has just begun does not evict by its predecessor's taints
		// before it knows better.
		if !c.settle(ctx) {
			return nil
		}
		g.Go(func() error { return c.fences.Run(ctx) })
		return c.evictions.Run(ctx)
	})
	return g.Wait()
}

// settle waits until absence means something; false when ctx ends first.
func (c *Controller) settle(ctx context.Context) bool {
	limit := time.NewTimer(settleMost)
	defer limit.Stop()
	for {
		changed := c.presence.Changed()
		if c.presence.Ready() {
			break
		}
		select {
		case <-ctx.Done():
			return false
		case <-limit.C:
			c.log.Warn("judging nodes without having heard from every control node")
		case <-changed:
			continue
		}
		break
	}
	c.settled.Store(true)
	for _, node := range c.caches.Nodes.List() {
		c.nodes.Add(node.Name)
	}
	return true
}

// listen asks for a look at each node whose signals have changed, and at all
// when the first is heard again or the last falls silent.
func (c *Controller) listen(ctx context.Context) error {
	type signals struct{ session, gossip bool }
	known := make(map[string]signals)
	nobody := false
	for {
		changed := c.presence.Changed()
		now := make(map[string]signals, len(known))
		heard := 0
		for _, node := range c.caches.Nodes.List() {
			session, gossip := c.presence.Alive(node.Name)
			s := signals{session, gossip}
			if before, ok := known[node.Name]; !ok || before != s {
				c.nodes.Add(node.Name)
			}
			now[node.Name] = s
			c.attendance.session(node.Name, session, time.Now())
			if session || gossip {
				heard++
			}
		}
		if nobody != (heard == 0) {
			nobody = heard == 0
			for name := range now {
				c.nodes.Add(name)
			}
		}
		known = now
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		select { // let changes gather
		case <-ctx.Done():
			return nil
		case <-time.After(lookEvery):
		}
	}
}

// nobodyHeard says that not one node gives a sign. Then it is more likely that
// this control node is cut off from them than that all have died, and in any
// case there is nowhere to go: nothing is evicted until one is heard.
func (c *Controller) nobodyHeard() bool {
	for _, node := range c.caches.Nodes.List() {
		if session, gossip := c.presence.Alive(node.Name); session || gossip {
			return false
		}
	}
	return true
}

func (c *Controller) onNode(old, now *corev1.Node) {
	if now == nil {
		c.silences.forget(old.Name)
		c.taints.forget(old.Name)
		c.attendance.forget(old.Name)
		return
	}
	if old == nil {
		session, _ := c.presence.Alive(now.Name)
		c.attendance.session(now.Name, session, time.Now())
	}
	c.attendance.stored(now, time.Now())
	if _, lost := c.attendance.lostFor(now.Name, time.Now()); lost {
		c.fenceOn(now.Name)
	}
	c.nodes.Add(now.Name)
	if old != nil && isReady(old) && !isReady(now) {
		c.events.Event(store.Nodes, now, corev1.EventTypeNormal, "NodeNotReady", "Node "+now.Name+" status is now: NodeNotReady")
	}
	if c.taints.note(old, now, time.Now()) {
		c.evictFrom(now.Name)
	}
}

// evictFrom asks for a look at all pods of a node.
func (c *Controller) evictFrom(node string) {
	for _, pod := range c.caches.Pods.ByIndex(controller.PodsByNode, node) {
		c.evictions.Add(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
	}
}

// errChanged: the object is no longer one that the decision was about. What
// changed it asks for a new one.
var errChanged = errors.New("changed meanwhile")

// reconcile judges one node and brings conditions, taints and the readiness of
// its pods in line.
func (c *Controller) reconcile(ctx context.Context, name string) error {
	node, ok := c.caches.Nodes.Get("", name)
	if !ok {
		return nil
	}
	session, gossip := c.presence.Alive(name)
	lost, again := c.silences.judge(name, session, gossip, c.presence.SilentFor(name), time.Now())
	if again > 0 {
		c.nodes.AddAfter(name, again)
	}
	if !c.settled.Load() && !session {
		return nil // settle asks again
	}
	if lost && needsUnknown(node) {
		stored, err := c.update(ctx, node, "status", func(now *corev1.Node) error {
			if session, gossip := c.presence.Alive(name); session || gossip && !c.silences.sessionLost(name, time.Now()) {
				return errChanged
			}
			setUnknown(now, time.Now())
			return nil
		})
		if err != nil || stored == nil {
			return err
		}
		c.log.Info("node lost", "node", name)
		node = stored
	}
	hold := !isReady(node) && c.nobodyHeard()
	if _, changed := wantedTaints(node, hold, time.Now()); changed {
		stored, err := c.update(ctx, node, "", func(now *corev1.Node) error {
			taints, changed := wantedTaints(now, hold, time.Now())
			if !changed {
				return errChanged
			}
			now.Spec.Taints = taints
			return nil
		})
		if err != nil || stored == nil {
			return err
		}
		node = stored
	}
	if lost {
		c.evictFrom(name) // some may have been spared while a session was there
		c.fenceOn(name)
	}
	return c.markPods(ctx, node)
}

// update writes a change of the very node that was looked at; nil without an
// error when there was nothing to write after all.
func (c *Controller) update(ctx context.Context, node *corev1.Node, subresource string, change func(*corev1.Node) error) (*corev1.Node, error) {
	obj, _, err := c.registry.Update(ctx, resource.Nodes, "", node.Name, subresource, func(current store.Object) (store.Object, error) {
		now := current.(*corev1.Node)
		if now.UID != node.UID {
			return nil, errChanged
		}
		return now, change(now)
	}, resource.UpdateOptions{})
	if errors.Is(err, errChanged) || apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Node), nil
}

// markPods sets Ready=False on the pods of a node that is not ready, so that
// nobody counts on them, each once: what an agent reports later stands.
func (c *Controller) markPods(ctx context.Context, node *corev1.Node) error {
	since, bad := notReadySince(node)
	if !bad {
		return nil
	}
	var g errgroup.Group
	g.SetLimit(writers)
	for _, pod := range c.caches.Pods.ByIndex(controller.PodsByNode, node.Name) {
		if !countsAsReady(pod, since) {
			continue
		}
		g.Go(func() error {
			_, _, err := c.registry.Update(ctx, resource.Pods, pod.Namespace, pod.Name, "status", func(current store.Object) (store.Object, error) {
				now := current.(*corev1.Pod)
				if now.UID != pod.UID || !countsAsReady(now, since) {
					return nil, errChanged
				}
				setNotReady(now, time.Now())
				return now, nil
			}, resource.UpdateOptions{})
			if errors.Is(err, errChanged) || apierrors.IsNotFound(err) {
				return nil
			}
			if err == nil {
				c.events.Event(store.Pods, pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
			}
			return err
		})
	}
	return g.Wait()
}
