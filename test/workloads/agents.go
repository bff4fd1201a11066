package workloads

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/agent/fence"
	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/agent/probe"
	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/runtime/hollow"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// retryEvery is between attempts of agents and users while nobody leads.
const retryEvery = 100 * time.Millisecond

// againEvery is between a control node's looks for a quorum, as dispatch's.
const againEvery = 200 * time.Millisecond

// slowAgent is a bug that is planted in agents.
const slowAgent = "slow-agent"

// agent is a machine: the real workers of pods on a pretended runtime, and the real
// fence. What a session with a control node does is done here.
type agent struct {
	w       *world
	name    string
	runtime *hollow.Runtime
	pods    *pod.Manager
	fence   *fence.Fence

	mu       sync.Mutex
	statuses map[types.UID]resource.PodStatusUpdate // to be said
	latest   map[types.UID]resource.PodStatusUpdate
	gone     map[types.UID]types.NamespacedName
	wake     chan struct{} // room for one
}

func newAgent(w *world, name string) *agent {
	a := &agent{
		w: w, name: name, wake: make(chan struct{}, 1),
		statuses: map[types.UID]resource.PodStatusUpdate{}, latest: map[types.UID]resource.PodStatusUpdate{}, gone: map[types.UID]types.NamespacedName{},
		runtime: hollow.New(hollow.Config{
			SandboxDelay: time.Millisecond + w.upTo(200*time.Millisecond), StartDelay: time.Millisecond + w.upTo(500*time.Millisecond),
		}),
	}
	if err := a.runtime.SetPodCIDR(fmt.Sprintf("10.42.%s.0/24", strings.TrimPrefix(name, "n"))); err != nil {
		w.t.Fatal(err)
	}
	var err error
	a.pods, err = pod.New(pod.Config{
		Dir: w.t.TempDir(), Runtime: a.runtime, Reporter: a, Prober: probe.Pretended{}, Unsynced: true, Logger: slog.New(slog.DiscardHandler),
		Node: func() pod.Node {
			return pod.Node{Name: name, Hostname: name, IP: "192.0.2.1", RuntimeName: "hollow", Allocatable: node(name).Status.Allocatable}
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := fence.Config{Name: name, Clock: func() time.Duration { return time.Hour + time.Since(w.began) }}
	if w.bug == slowAgent {
		cfg.StopAfter = time.Minute
	}
	if a.fence, err = fence.New(cfg); err != nil {
		w.t.Fatal(err)
	}
	a.pods.SetFence(pod.Unclear)
	a.fence.OnChange(func(s fence.State) {
		a.pods.SetFence(map[fence.State]pod.Fence{fence.Undecided: pod.Unclear, fence.Going: pod.Open, fence.Stopped: pod.Closed}[s])
	})
	return a
}

// meet lets agents ask each other.
func (a *agent) meet(all []*agent) {
	byName := map[string]*agent{}
	for _, other := range all {
		byName[other.name] = other
	}
	a.fence.Through(a.name, func(_, name string, message []byte) error {
		if a.w.air.reaches(a.name, name) {
			time.Sleep(time.Millisecond)
			byName[name].fence.Receive(message)
		}
		return nil
	}, func(name string) (string, bool) { return name, true })
}

// run runs its pods and says how they are, while the machine is connected.
func (a *agent) run(ctx context.Context) {
	var group sync.WaitGroup
	group.Go(func() { _ = a.pods.Run(ctx) })
	group.Go(func() { _ = a.fence.Run(ctx) })
	group.Go(func() { a.report(ctx) })
	group.Go(func() {
		for ctx.Err() == nil {
			if a.w.air.connected(a.name) {
				a.session(ctx)
			}
			select {
			case <-ctx.Done():
			case <-time.After(retryEvery):
			}
		}
	})
	group.Wait()
}

// session is one with a control node: the machine is registered, all pods are told
// and what changes, and heartbeats come back, until the machine is cut off.
func (a *agent) session(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	a.register(ctx)
	if ctx.Err() != nil || !a.w.air.connected(a.name) {
		return
	}
	var others []string
	for i := range machines {
		if name := nodeName(i); name != a.name {
			others = append(others, name)
		}
	}
	a.fence.Nodes(others)
	told := make(chan struct{})
	group.Go(func() { a.hear(ctx, told) })
	var sent int64
	beat, again := time.NewTimer(a.w.upTo(time.Second)), time.NewTimer(time.Hour)
	for {
		// A break is noticed as late as it may be.
		changed := a.w.air.Changed()
		asked := true
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			beat.Reset(time.Second)
		case <-again.C: // a control node that had no quorum looks again
			asked = false
		case <-changed:
			if !a.w.air.connected(a.name) {
				return
			}
			continue
		}
		if !a.w.air.connected(a.name) {
			return
		}
		if quorum := a.w.gate.isOpen(); quorum {
			a.fence.Heard()
			select {
			case <-told:
				if sent != 0 {
					a.fence.Certain(sent)
				}
			default:
			}
		} else {
			again.Reset(againEvery)
		}
		if asked {
			sent = a.fence.Clock()
		}
	}
}

// register stores the machine's object, or that it is well.
func (a *agent) register(ctx context.Context) {
	a.w.do(ctx, func() error {
		_, err := a.w.client.Create(ctx, resource.Nodes, "", node(a.name), resource.CreateOptions{})
		return err
	})
	a.w.do(ctx, func() error {
		_, _, err := a.w.client.Update(ctx, resource.Nodes, "", a.name, "status", func(current store.Object) (store.Object, error) {
			n := current.(*corev1.Node)
			n.Status = node(a.name).Status
			return n, nil
		}, resource.UpdateOptions{})
		return err
	})
}

func (a *agent) report(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		}
		for !a.say(ctx) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryEvery):
			}
		}
	}
}

// say stores what there is to say; false if it must be said again.
func (a *agent) say(ctx context.Context) bool {
	if !a.w.air.connected(a.name) {
		return false
	}
	a.mu.Lock()
	statuses, gone := a.statuses, a.gone
	a.statuses, a.gone = map[types.UID]resource.PodStatusUpdate{}, map[types.UID]types.NamespacedName{}
	a.mu.Unlock()
	all := true
	for uid, update := range statuses {
		if err := a.w.client.UpdatePodStatus(ctx, update); err != nil && !apierrors.IsNotFound(err) {
			all = false
			a.mu.Lock()
			if _, newer := a.statuses[uid]; !newer {
				a.statuses[uid] = update
			}
			a.mu.Unlock()
		}
	}
	for uid, key := range gone {
		if err := a.finish(ctx, uid, key); err != nil {
			all = false
			a.mu.Lock()
			a.gone[uid] = key
			a.mu.Unlock()
		}
	}
	return all
}

// finish removes the object of a deleted pod of which nothing runs any more.
func (a *agent) finish(ctx context.Context, uid types.UID, key types.NamespacedName) error {
	p, err := store.Of[*corev1.Pod](a.w.store, store.Pods).Get(ctx, key.Namespace, key.Name)
	if err != nil || p.UID != uid || p.DeletionTimestamp == nil {
		return nil
	}
	_, _, err = a.w.client.Delete(ctx, resource.Pods, key.Namespace, key.Name, &metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0)), Preconditions: &metav1.Preconditions{UID: &uid}})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// Status, Gone, Forget and Event implement pod.Reporter.
func (a *agent) Status(p *corev1.Pod, status *corev1.PodStatus) {
	a.mu.Lock()
	update := resource.PodStatusUpdate{Namespace: p.Namespace, Name: p.Name, UID: p.UID, Node: a.name, Status: *status}
	a.statuses[p.UID], a.latest[p.UID] = update, update
	a.mu.Unlock()
	a.nudge()
}

func (a *agent) Gone(namespace, name string, uid types.UID) {
	a.mu.Lock()
	a.gone[uid] = types.NamespacedName{Namespace: namespace, Name: name}
	a.mu.Unlock()
	a.nudge()
}

func (a *agent) Forget(uid types.UID) {
	a.mu.Lock()
	delete(a.statuses, uid)
	delete(a.latest, uid)
	a.mu.Unlock()
}

// put tells the machine of a pod, and has it say again how the pod is if that is
// not what is stored: the node lifecycle calls pods of lost nodes not ready.
func (a *agent) put(p *corev1.Pod) {
	a.pods.Put(p)
	a.mu.Lock()
	if update, ok := a.latest[p.UID]; ok && saysReady(&update.Status) != saysReady(&p.Status) {
		a.statuses[p.UID] = update
	}
	a.mu.Unlock()
	a.nudge()
}

func saysReady(s *corev1.PodStatus) bool {
	return slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func (a *agent) Event(*corev1.ObjectReference, string, string, string) {}

func (a *agent) nudge() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// hear tells the machine all its pods, and then what changes, as dispatch does.
func (a *agent) hear(ctx context.Context, told chan<- struct{}) {
	pods := store.Of[*corev1.Pod](a.w.store, store.Pods)
	all, revision, err := pods.List(ctx, store.ListOptions{})
	if err != nil {
		return
	}
	mine := map[types.UID]bool{}
	for _, p := range all {
		if p.Spec.NodeName == a.name {
			mine[p.UID] = true
			a.put(p)
		}
	}
	a.pods.Retain(mine)
	close(told)
	watch, err := a.w.store.Table(store.Pods).Watch(ctx, store.WatchOptions{After: revision})
	if err != nil {
		a.w.t.Error(err)
		return
	}
	for {
		events, _, err := watch.Next(ctx)
		if err != nil {
			return
		}
		for _, e := range events {
			obj, err := store.Decode(store.Pods, e.Item)
			if err != nil {
				a.w.t.Error(err)
				return
			}
			switch p := obj.(*corev1.Pod); {
			case p.Spec.NodeName != a.name || !a.w.air.connected(a.name):
			case e.Type == "DELETED":
				a.pods.Remove(p.UID)
			default:
				a.put(p)
			}
		}
	}
}

// watchTwins looks for containers of one pod name that run on two machines.
func (w *world) watchTwins(ctx context.Context, agents []*agent) {
	told := map[string]bool{}
	for ctx.Err() == nil {
		runs := map[string]string{}
		for _, a := range agents {
			pods, err := a.runtime.Pods(ctx)
			if err != nil {
				return
			}
			for _, p := range pods {
				key := p.Namespace + "/" + p.Name
				if !running(p) {
					continue
				}
				if other := runs[key]; other != "" && !told[key] {
					told[key] = true
					w.violated(Violation{Promise: oneOrdinal, Why: fmt.Sprintf("%s runs as %s and as %s on %s", key, other, p.UID, a.name)})
				}
				runs[key] = fmt.Sprintf("%s on %s", p.UID, a.name)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func running(p runtime.Pod) bool {
	for _, box := range p.Sandboxes {
		for _, c := range box.Containers {
			if c.State == runtime.Running {
				return true
			}
		}
	}
	return false
}
