// Package pod keeps the pods that are bound to this node as they should be. One
// worker for each compares what should run with what does and acts on the
// difference, again and again; it remembers little, so that it can begin at any
// point. What should run is kept on disk: pods outlive the agent and the
// control plane's silence. Running containers is package runtime's business,
// carrying statuses to the control plane package session's.
package pod

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/volume"
)

// Reporter tells the control plane. It does not block, and copies nothing: what
// it is given is not changed afterwards.
type Reporter interface {
	// Status replaces what was said of the pod before.
	Status(pod *corev1.Pod, status *corev1.PodStatus)
	// Gone says that nothing of the pod runs here, nor will.
	Gone(namespace, name string, uid types.UID)
	// Forget drops what was not yet said of a pod that is of no interest any more.
	Forget(uid types.UID)
	Event(regarding *corev1.ObjectReference, eventType, reason, message string)
}

// Volumes prepares what pods mount.
type Volumes interface {
	// Setup makes the pod's volumes ready and answers where each is, by name. Claimed
	// is what a volume's claim is bound to.
	Setup(ctx context.Context, pod *corev1.Pod, claimed func(*corev1.Volume) (*volume.Claimed, error)) (map[string]string, error)
	// Fill shows files in a volume that shows what the cluster holds, instead of
	// those that it showed before. Filled says whether it shows any.
	Fill(pod *corev1.Pod, name string, files map[string]volume.File) error
	Filled(pod *corev1.Pod, name string) bool
	// Release gives back what claims are bound to: nothing of the pod will run again.
	Release(uid types.UID) error
	// Remove takes away all of a pod's volumes.
	Remove(uid types.UID) error
}

// Prober asks a container over the network. Its errors say what a user should
// read in an event.
type Prober interface {
	HTTP(ctx context.Context, host string, port int, get *corev1.HTTPGetAction) error
	TCP(ctx context.Context, host string, port int) error
	GRPC(ctx context.Context, host string, port int, service string) error
}

// Config is what a Manager needs.
type Config struct {
	Dir      string // desired state, logs and small files are kept below it
	Runtime  runtime.Runtime
	Reporter Reporter
	Volumes  Volumes // nil: containers get no mounts at all (on a hollow node)
	// Contents are what pods refer to; nil: they do without (on a hollow node).
	Contents Contents
	Prober   Prober
	Node     func() Node
	// Unsynced skips fsync of the desired state, for pretended nodes.
	Unsynced bool
	Logger   *slog.Logger
}

// Node is what pods are told about theirs.
type Node struct {
	Name, Hostname, IP string
	Allocatable        corev1.ResourceList
	ClusterDNS         []string
	ClusterDomain      string
	RuntimeName        string // as in containerd://<container ID>
}

const (
	relistEvery = 10 * time.Second
	// unsureFor is how long a starting agent waits to hear which pods there
	// should be before it starts those that it knows from disk: while it was away
	// they may have been replaced elsewhere. What runs is left running.
	unsureFor = 5 * time.Second
)

// Manager has a worker for each pod.
type Manager struct {
	cfg   Config
	log   *slog.Logger
	cache *cache

	mu      sync.Mutex
	ctx     context.Context // Run's; nil before, and after its end
	group   sync.WaitGroup
	workers map[types.UID]*worker
	byName  map[types.NamespacedName]*worker // the latest of that name
	fence   Fence
	// synced: the control plane has said once which pods there are. Before, what
	// runs without our knowledge is left alone.
	synced bool
	began  time.Time // Run
}

// New loads what should run from disk.
func New(cfg Config) (*Manager, error) {
	m := &Manager{
		cfg: cfg, log: cfg.Logger,
		cache:   &cache{dir: filepath.Join(cfg.Dir, "pods"), unsynced: cfg.Unsynced},
		workers: map[types.UID]*worker{}, byName: map[types.NamespacedName]*worker{},
	}
	pods, err := m.cache.load(m.log)
	if err != nil {
		return nil, err
	}
	for _, pod := range pods {
		m.add(newWorker(m, pod, modeOf(pod)))
	}
	return m, nil
}

// Run keeps the pods as they should be until ctx ends. They go on running.
func (m *Manager) Run(ctx context.Context) error {
	if err := m.adopt(ctx); err != nil {
		return err
	}
	defer m.group.Wait()
	group, ctx := errgroup.WithContext(ctx)
	m.mu.Lock()
	m.ctx, m.began = ctx, time.Now()
	for _, w := range m.workers {
		m.spawn(w)
	}
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.ctx = nil
		m.mu.Unlock()
	}()
	group.Go(func() error { return m.listen(ctx) })
	group.Go(func() error { return m.relist(ctx) })
	group.Go(func() error { return m.rotateLogs(ctx) })
	return group.Wait()
}

// Put says how a pod should be.
func (m *Manager) Put(pod *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.workers[pod.UID]
	if w == nil {
		w = m.begin(pod)
		m.add(w)
		m.spawn(w)
		return
	}
	if w.mode == removing && pod.DeletionTimestamp == nil {
		w.next = pod // it was taken for gone, and is not: begin anew afterwards
		return
	}
	pod = w.ended(pod)
	if changed(w.pod, pod) {
		m.save(pod)
	}
	w.confirmed = true
	w.put(pod, modeOf(pod))
}

// begin makes the worker of a pod that the control plane has told of for the
// first time. One that has started in this agent's past is not asked again
// whether it fits. m.mu is held.
func (m *Manager) begin(pod *corev1.Pod) *worker {
	w := newWorker(m, pod, modeOf(pod))
	w.confirmed = true
	w.admitted = pod.Status.StartTime != nil
	m.save(pod)
	return w
}

// Refill has pods of a namespace show what they refer to as it is now; of all
// namespaces for "".
func (m *Manager) Refill(namespace string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		if namespace == "" || w.key.Namespace == namespace {
			w.stale = true
			w.nudge()
		}
	}
}

// Remove says that a pod does not exist any more.
func (m *Manager) Remove(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.workers[uid]; w != nil {
		w.next = nil
		w.put(w.pod, removing)
	}
}

// Retain says that these are all the pods there should be.
func (m *Manager) Retain(uids map[types.UID]bool) {
	m.mu.Lock()
	m.synced = true
	for uid, w := range m.workers {
		if !uids[uid] && w.mode != removing {
			m.log.Info("removing a pod that is not bound to this node any more", "pod", w.key, "uid", uid)
			w.put(w.pod, removing)
		}
	}
	m.mu.Unlock()
}

// Pod answers the pod that should run here under that name.
func (m *Manager) Pod(key types.NamespacedName) (*corev1.Pod, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.byName[key]; w != nil && w.pod.Spec.NodeName != "" {
		return w.pod, true
	}
	return nil, false
}

// Count is how many pods there are workers for.
func (m *Manager) Count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.workers)
}

// add makes w known, behind an older pod of the same name, which is then to
// end: its object is gone, or there could not be this one. m.mu is held, or
// nobody else knows m yet.
func (m *Manager) add(w *worker) {
	if older := m.byName[w.key]; older != nil {
		w.after = older
		older.put(older.pod, removing)
	}
	m.workers[w.uid] = w
	m.byName[w.key] = w
}

// spawn lets w work, if Run has begun. m.mu is held.
func (m *Manager) spawn(w *worker) {
	if m.ctx == nil || m.ctx.Err() != nil {
		return
	}
	ctx := m.ctx
	m.group.Go(func() {
		w.run(ctx)
		m.mu.Lock()
		defer m.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		delete(m.workers, w.uid)
		if m.byName[w.key] == w {
			delete(m.byName, w.key)
		}
		close(w.done)
		if w.next != nil {
			again := m.begin(w.next)
			m.add(again)
			m.spawn(again)
		}
	})
}

func (m *Manager) save(pod *corev1.Pod) {
	if err := m.cache.save(pod); err != nil {
		// The pod runs all the same; it would not be known after a restart until
		// a control node tells.
		m.log.Error("could not keep a pod's desired state on disk", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

// unsure says how long not to start a pod that is known from disk alone. m.mu
// is held.
func (m *Manager) unsure(w *worker) time.Duration {
	if w.confirmed || m.synced {
		return 0
	}
	return max(unsureFor-time.Since(m.began), 0)
}

// adopt makes workers for what runs but is not on disk. They wait until the
// control plane says whether it should.
func (m *Manager) adopt(ctx context.Context) error {
	for {
		found, err := m.cfg.Runtime.Pods(ctx)
		if err == nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, p := range found {
				if m.workers[types.UID(p.UID)] == nil {
					m.addOrphan(p)
				}
			}
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (m *Manager) addOrphan(p runtime.Pod) *worker {
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name, pod.UID = p.Namespace, p.Name, types.UID(p.UID)
	w := newWorker(m, pod, unknown)
	m.workers[w.uid] = w
	if newer := m.byName[w.key]; newer != nil {
		w.after, newer.after = newer.after, w // their workers do not run yet
		w.mode, w.grace = removing, removeGrace
	} else {
		m.byName[w.key] = w
	}
	return w
}

// listen wakes the workers of pods something happened to.
func (m *Manager) listen(ctx context.Context) error {
	for {
		uids, err := m.cfg.Runtime.Changed(ctx)
		if err != nil {
			return err
		}
		m.mu.Lock()
		for _, uid := range uids {
			if uid == "" {
				for _, w := range m.workers {
					w.nudge()
				}
			} else if w := m.workers[types.UID(uid)]; w != nil {
				w.nudge()
			}
		}
		m.mu.Unlock()
	}
}

// relist looks at everything once in a while, in case an event was lost, and
// finds what runs that nobody knows.
func (m *Manager) relist(ctx context.Context) error {
	seen := map[string]string{}
	tick := time.NewTicker(relistEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		found, err := m.cfg.Runtime.Pods(ctx)
		if err != nil {
			continue // said by the node's condition
		}
		now := map[string]string{}
		m.mu.Lock()
		for _, p := range found {
			now[p.UID] = outline(p)
			w := m.workers[types.UID(p.UID)]
			switch {
			case w == nil && m.synced:
				m.log.Warn("removing a pod that nobody asked for", "pod", p.Namespace+"/"+p.Name, "uid", p.UID)
				w = m.addOrphan(p)
				w.mode, w.grace = removing, removeGrace
				m.spawn(w)
			case w != nil && seen[p.UID] != now[p.UID]:
				w.nudge()
			}
		}
		for uid := range seen {
			if w := m.workers[types.UID(uid)]; w != nil && now[uid] == "" {
				w.nudge()
			}
		}
		m.mu.Unlock()
		seen = now
	}
}

// outline tells two states of a pod apart.
func outline(p runtime.Pod) string {
	var text []byte
	for _, box := range p.Sandboxes {
		text = append(text, box.ID...)
		if box.Ready {
			text = append(text, '+')
		}
		for _, c := range box.Containers {
			text = append(text, c.ID...)
			text = append(text, byte('0'+c.State))
		}
	}
	return string(text)
}
