// Package daemonset runs one pod of each DaemonSet on every node that it is for, and
// replaces them when its template changes. The pods name their node in an affinity;
// that they fit there is for the scheduler to find out.
//
// Revisions of the template are kept as ControllerRevisions, which pods are labelled
// with. A reconcile first makes the present one, then plans (makePlan, a pure function)
// and writes; whatever interrupts it, the next one sees what is there.
package daemonset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	workers = 4
	// A failed pod is replaced after failedFirst, then after twice that each time.
	failedFirst = time.Second
	failedMost  = 15 * time.Minute
)

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	Logger   *slog.Logger
}

// Controller keeps the pods of DaemonSets.
type Controller struct {
	registry *resource.Registry
	caches   *controller.Caches
	events   controller.Source
	keeper   *controller.Keeper
	loop     *controller.Loop[types.NamespacedName]
	failed   *flowcontrol.Backoff // by set and node
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	events := cfg.Events.Source("daemonset-controller")
	c := &Controller{
		registry: cfg.Registry,
		caches:   cfg.Caches,
		events:   events,
		keeper:   controller.NewKeeper(cfg.Registry, events, store.DaemonSets, cfg.Caches.DaemonSets),
		failed:   flowcontrol.NewBackOff(failedFirst, failedMost),
	}
	c.loop = controller.NewLoop("daemonset", workers, cfg.Logger, c.reconcile)
	c.caches.DaemonSets.OnChange(func(old, now *appsv1.DaemonSet) {
		if now == nil {
			c.keeper.Forget(old.UID)
			return
		}
		c.add(now)
	})
	c.caches.ControllerRevisions.OnChange(func(old, now *appsv1.ControllerRevision) {
		for _, r := range []*appsv1.ControllerRevision{old, now} {
			if r != nil {
				c.addOwner(r)
			}
		}
	})
	c.caches.Pods.OnChange(c.onPod)
	c.caches.Nodes.OnChange(c.onNode)
	return c
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !c.caches.Synced(ctx) {
		return nil
	}
	return c.loop.Run(ctx)
}

func (c *Controller) add(ds *appsv1.DaemonSet) {
	c.loop.Add(types.NamespacedName{Namespace: ds.Namespace, Name: ds.Name})
}

func (c *Controller) addOwner(obj metav1.Object) bool {
	ref := metav1.GetControllerOfNoCopy(obj)
	if ref == nil {
		return false
	}
	if ref.Kind == store.DaemonSets.Kind.Kind && ref.APIVersion == appsv1.SchemeGroupVersion.String() {
		c.loop.Add(types.NamespacedName{Namespace: obj.GetNamespace(), Name: ref.Name})
	}
	return true
}

func (c *Controller) onPod(old, now *corev1.Pod) {
	if old != nil {
		c.addOwner(old)
	}
	if now == nil || c.addOwner(now) {
		return
	}
	for _, ds := range c.caches.DaemonSets.ByIndex(controller.ByNamespace, now.Namespace) {
		if controller.SelectorOf(ds.Spec.Selector).Matches(labels.Set(now.Labels)) {
			c.add(ds)
		}
	}
}

func (c *Controller) onNode(old, now *corev1.Node) {
	if old != nil && now != nil && maps.Equal(old.Labels, now.Labels) && apiequality.Semantic.DeepEqual(old.Spec.Taints, now.Spec.Taints) {
		return
	}
	for _, ds := range c.caches.DaemonSets.List() {
		c.add(ds)
	}
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	for _, wait := range []func(context.Context, uint64) error{
		c.caches.DaemonSets.WaitRevision, c.caches.ControllerRevisions.WaitRevision, c.caches.Nodes.WaitRevision, c.caches.Pods.WaitRevision,
	} {
		if err := wait(ctx, c.registry.Store().Revision()); err != nil {
			return err
		}
	}
	ds, ok := c.caches.DaemonSets.Get(key.Namespace, key.Name)
	if !ok || ds.DeletionTimestamp != nil {
		return nil
	}
	owned, adopt, release := controller.Revisions(c.caches.ControllerRevisions, ds, controller.SelectorOf(ds.Spec.Selector))
	if len(adopt)+len(release) > 0 {
		if err := controller.Claim(ctx, c.registry, ds, store.DaemonSets, resource.ControllerRevisions, adopt, release, nil); err != nil {
			return err
		}
		return c.reconcile(ctx, key)
	}
	hash, old, err := c.revise(ctx, ds, owned)
	if err != nil || hash == "" {
		return err
	}
	p, err := c.plan(ctx, ds, hash)
	if err != nil {
		return err
	}
	if len(p.adopt)+len(p.release) > 0 {
		if err := c.keeper.Claim(ctx, ds, p.adopt, p.release, nil); err != nil {
			return err
		}
		return c.reconcile(ctx, key)
	}
	failed := c.carryOut(ctx, ds, hash, p)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if failed == nil {
		failed = c.trimHistory(ctx, ds, old)
	}
	now, err := c.plan(ctx, ds, hash)
	if err != nil {
		return errors.Join(failed, err)
	}
	if now.again > 0 {
		c.loop.AddAfter(key, now.again)
	}
	return errors.Join(failed, c.writeStatus(ctx, ds, now.status))
}

// plan looks at all pods stored so far.
func (c *Controller) plan(ctx context.Context, ds *appsv1.DaemonSet, hash string) (plan, error) {
	if err := c.caches.Pods.WaitRevision(ctx, c.registry.Store().Revision()); err != nil {
		return plan{}, err
	}
	return makePlan(ds, hash, c.caches.Nodes.List(),
		c.caches.Pods.ByIndex(controller.ByController, string(ds.UID)),
		c.caches.Pods.ByIndex(controller.PodsOnTheirOwn, ds.Namespace), time.Now()), nil
}

func (c *Controller) carryOut(ctx context.Context, ds *appsv1.DaemonSet, hash string, p plan) error {
	remove := p.remove
	for _, pod := range p.ended {
		if pod.Status.Phase == corev1.PodFailed {
			if wait := c.backOff(ds, targetOf(pod)); wait > 0 {
				c.loop.AddAfter(types.NamespacedName{Namespace: ds.Namespace, Name: ds.Name}, wait)
				continue
			}
			c.events.Event(store.DaemonSets, ds, corev1.EventTypeWarning, "FailedDaemonPod",
				fmt.Sprintf("Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, targetOf(pod)))
		} else {
			c.events.Event(store.DaemonSets, ds, corev1.EventTypeNormal, "SucceededDaemonPod",
				fmt.Sprintf("Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, targetOf(pod)))
		}
		remove = append(remove, pod)
	}
	template := podTemplate(ds, hash)
	return errors.Join(
		c.keeper.CreateMany(ctx, ds, len(p.create), func(i int) *corev1.Pod {
			pod := c.keeper.PodOf(ds, template)
			pod.Spec.Affinity = onNode(pod.Spec.Affinity, p.create[i])
			return pod
		}),
		c.keeper.Delete(ctx, ds, remove))
}

// backOff says how long a failed pod on a node has to wait for its successor, and
// counts it when that is over.
func (c *Controller) backOff(ds *appsv1.DaemonSet, node string) time.Duration {
	key := fmt.Sprintf("%s/%d/%s", ds.UID, ds.Status.ObservedGeneration, node)
	now := time.Now()
	if c.failed.IsInBackOffSinceUpdate(key, now) {
		return c.failed.Get(key)
	}
	c.failed.Next(key, now)
	c.failed.GC()
	return 0
}

// revise makes sure that there is a revision of the present template, and returns its
// hash and the others. Without a hash there was a collision, which is noted in the status.
func (c *Controller) revise(ctx context.Context, ds *appsv1.DaemonSet, owned []*appsv1.ControllerRevision) (string, []*appsv1.ControllerRevision, error) {
	patch, err := controller.TemplatePatch(&ds.Spec.Template)
	if err != nil {
		return "", nil, fmt.Errorf("template: %w", err)
	}
	var current *appsv1.ControllerRevision
	var old []*appsv1.ControllerRevision
	for _, r := range slices.Backward(owned) {
		if current == nil && bytes.Equal(r.Data.Raw, patch) {
			current = r
		} else {
			old = append(old, r)
		}
	}
	slices.Reverse(old)
	number := int64(1)
	if len(old) > 0 {
		number = old[len(old)-1].Revision + 1
	}
	if current != nil {
		if current.Revision < number {
			err = controller.Change(ctx, c.registry, resource.ControllerRevisions, current, "", func(now *appsv1.ControllerRevision) bool {
				now.Revision = number
				return true
			})
		}
		return current.Labels[appsv1.DefaultDaemonSetUniqueLabelKey], old, err
	}
	hash := controller.TemplateHash(&ds.Spec.Template, ds.Status.CollisionCount)
	revision := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ds.Namespace, Name: ds.Name + "-" + hash,
			Labels:          maps.Clone(ds.Spec.Template.Labels),
			Annotations:     maps.Clone(ds.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(ds, store.DaemonSets.Kind)},
		},
		Data:     runtime.RawExtension{Raw: patch},
		Revision: number,
	}
	metav1.SetMetaDataLabel(&revision.ObjectMeta, appsv1.DefaultDaemonSetUniqueLabelKey, hash)
	_, err = c.registry.Create(ctx, resource.ControllerRevisions, ds.Namespace, revision, resource.CreateOptions{})
	switch {
	case err == nil:
		return hash, old, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return "", nil, nil
	case !apierrors.IsAlreadyExists(err):
		return "", nil, fmt.Errorf("create revision %s: %w", revision.Name, err)
	}
	there, err := store.Of[*appsv1.ControllerRevision](c.registry.Store(), store.ControllerRevisions).Get(ctx, ds.Namespace, revision.Name)
	if err != nil {
		return "", nil, fmt.Errorf("revision %s: %w", revision.Name, err)
	}
	if bytes.Equal(there.Data.Raw, patch) {
		return hash, old, nil
	}
	return "", nil, controller.Change(ctx, c.registry, resource.DaemonSets, ds, "status", func(now *appsv1.DaemonSet) bool {
		now.Status.CollisionCount = ptr.To(ptr.Deref(ds.Status.CollisionCount, 0) + 1)
		return true
	})
}

// trimHistory deletes the oldest revisions that no pod is of and nobody asked to keep.
func (c *Controller) trimHistory(ctx context.Context, ds *appsv1.DaemonSet, old []*appsv1.ControllerRevision) error {
	surplus := len(old) - int(ptr.Deref(ds.Spec.RevisionHistoryLimit, 10))
	used := map[string]bool{}
	for _, pod := range c.caches.Pods.ByIndex(controller.ByController, string(ds.UID)) {
		used[pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] = true
	}
	for _, r := range old {
		if surplus <= 0 {
			break
		}
		if used[r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] {
			continue
		}
		if err := controller.Delete(ctx, c.registry, resource.ControllerRevisions, r); err != nil {
			return fmt.Errorf("revision %s: %w", r.Name, err)
		}
		surplus--
	}
	return nil
}

// writeStatus stores a status that differs from the one the cache shows.
func (c *Controller) writeStatus(ctx context.Context, ds *appsv1.DaemonSet, status appsv1.DaemonSetStatus) error {
	if apiequality.Semantic.DeepEqual(ds.Status, status) {
		return nil
	}
	_, err := controller.WriteStatus(ctx, c.registry, resource.DaemonSets, ds, func(now *appsv1.DaemonSet) { now.Status = status })
	return err
}
