// Package statefulset keeps the pods of each StatefulSet: one for each ordinal, with a
// name and claims of its own, made and removed in order unless they need not wait for
// each other. There are never two pods of an ordinal: the name is the ordinal's.
//
// Revisions of the template are kept as ControllerRevisions. A reconcile makes the
// present one, plans (makePlan, a pure function) and writes; everything that it makes
// has a name that follows from what it is, so it may be interrupted anywhere.
package statefulset

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const workers = 8

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	Logger   *slog.Logger
}

// Controller keeps the pods of StatefulSets.
type Controller struct {
	registry *resource.Registry
	caches   *controller.Caches
	claims   *store.Cache[*corev1.PersistentVolumeClaim]
	events   controller.Source
	keeper   *controller.Keeper
	loop     *controller.Loop[types.NamespacedName]
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	events := cfg.Events.Source("statefulset-controller")
	c := &Controller{
		registry: cfg.Registry,
		caches:   cfg.Caches,
		claims:   cfg.Caches.PersistentVolumeClaims,
		events:   events,
		keeper:   controller.NewKeeper(cfg.Registry, events, store.StatefulSets, cfg.Caches.StatefulSets),
	}
	c.keeper.Describe = func(verb, pod string, set store.Object, err error) string {
		if err != nil {
			return fmt.Sprintf("%s Pod %s in StatefulSet %s failed error: %v", verb, pod, set.GetName(), err)
		}
		return fmt.Sprintf("%s Pod %s in StatefulSet %s successful", verb, pod, set.GetName())
	}
	c.loop = controller.NewLoop("statefulset", workers, cfg.Logger, c.reconcile)
	c.caches.StatefulSets.OnChange(func(_, now *appsv1.StatefulSet) {
		if now != nil {
			c.add(now)
		}
	})
	c.caches.ControllerRevisions.OnChange(func(old, now *appsv1.ControllerRevision) {
		for _, r := range []*appsv1.ControllerRevision{old, now} {
			if r != nil {
				c.addOwner(r)
			}
		}
	})
	c.caches.Pods.OnChange(c.onPod)
	c.claims.OnChange(c.onClaim)
	return c
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !c.caches.Synced(ctx) {
		return nil
	}
	return c.loop.Run(ctx)
}

func (c *Controller) add(set *appsv1.StatefulSet) {
	c.loop.Add(types.NamespacedName{Namespace: set.Namespace, Name: set.Name})
}

func (c *Controller) addOwner(obj metav1.Object) bool {
	ref := metav1.GetControllerOfNoCopy(obj)
	if ref == nil {
		return false
	}
	if ref.Kind == store.StatefulSets.Kind.Kind && ref.APIVersion == appsv1.SchemeGroupVersion.String() {
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
	name, _ := nameOf(now)
	if set, ok := c.caches.StatefulSets.Get(now.Namespace, name); ok && controller.SelectorOf(set.Spec.Selector).Matches(labels.Set(now.Labels)) {
		c.add(set)
	}
}

// onClaim is for pods that wait for an old claim to go, and claims that others change.
func (c *Controller) onClaim(old, now *corev1.PersistentVolumeClaim) {
	claim := now
	if claim == nil {
		claim = old
	}
	for _, set := range c.caches.StatefulSets.ByIndex(controller.ByNamespace, claim.Namespace) {
		for i := range set.Spec.VolumeClaimTemplates {
			if strings.HasPrefix(claim.Name, set.Spec.VolumeClaimTemplates[i].Name+"-"+set.Name+"-") {
				c.add(set)
			}
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	for _, wait := range []func(context.Context, uint64) error{c.caches.StatefulSets.WaitRevision, c.caches.ControllerRevisions.WaitRevision} {
		if err := wait(ctx, c.registry.Store().Revision()); err != nil {
			return err
		}
	}
	set, ok := c.caches.StatefulSets.Get(key.Namespace, key.Name)
	if !ok {
		return nil
	}
	owned, adopt, release := controller.Revisions(c.caches.ControllerRevisions, set, controller.SelectorOf(set.Spec.Selector))
	if len(adopt)+len(release) > 0 {
		if err := controller.Claim(ctx, c.registry, set, store.StatefulSets, resource.ControllerRevisions, adopt, release, nil); err != nil {
			return err
		}
		return c.reconcile(ctx, key)
	}
	revs, err := c.revise(ctx, set, owned)
	if err != nil || revs == nil {
		return err
	}
	p, pods, err := c.plan(ctx, set, revs)
	if err != nil || pods == nil {
		return err
	}
	failed := c.carryOut(ctx, set, p)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if failed == nil {
		failed = c.trimHistory(ctx, set, revs, owned, pods)
	}
	now, pods, err := c.plan(ctx, set, revs)
	if err != nil || pods == nil {
		return errors.Join(failed, err)
	}
	if now.again > 0 {
		c.loop.AddAfter(key, now.again)
	}
	return errors.Join(failed, c.writeStatus(ctx, set, now.status))
}

// plan looks at what is stored now. When pods were claimed or released there is none, and
// the changes of these ask for a new one.
func (c *Controller) plan(ctx context.Context, set *appsv1.StatefulSet, revs *revisions) (plan, []*corev1.Pod, error) {
	for _, wait := range []func(context.Context, uint64) error{c.caches.Pods.WaitRevision, c.claims.WaitRevision} {
		if err := wait(ctx, c.registry.Store().Revision()); err != nil {
			return plan{}, nil, err
		}
	}
	own, adopt, release := controller.ClaimedPods(set, controller.SelectorOf(set.Spec.Selector),
		c.caches.Pods.ByIndex(controller.ByController, string(set.UID)),
		c.caches.Pods.ByIndex(controller.PodsOnTheirOwn, set.Namespace))
	pods, members := []*corev1.Pod{}, []*corev1.Pod(nil)
	for _, pod := range own {
		if name, _ := nameOf(pod); name == set.Name {
			pods = append(pods, pod)
		} else if set.DeletionTimestamp == nil {
			release = append(release, pod)
		}
	}
	for _, pod := range adopt {
		if name, _ := nameOf(pod); name == set.Name {
			members = append(members, pod)
		}
	}
	if len(members)+len(release) > 0 {
		return plan{}, nil, c.keeper.Claim(ctx, set, members, release, nil)
	}
	claim := func(name string) *corev1.PersistentVolumeClaim {
		found, _ := c.claims.Get(set.Namespace, name)
		return found
	}
	return makePlan(set, revs.current, revs.update, pods, claim, time.Now()), pods, nil
}

// carryOut writes a plan: claims before the pods that mount them.
func (c *Controller) carryOut(ctx context.Context, set *appsv1.StatefulSet, p plan) error {
	for _, claim := range p.claims {
		_, err := c.registry.Create(ctx, resource.PersistentVolumeClaims, claim.Namespace, claim, resource.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		pod := strings.TrimPrefix(claim.Name[strings.Index(claim.Name, "-"+set.Name+"-"):], "-")
		switch {
		case err == nil:
			c.events.Event(store.StatefulSets, set, corev1.EventTypeNormal, "SuccessfulCreate",
				fmt.Sprintf("create Claim %s Pod %s in StatefulSet %s success", claim.Name, pod, set.Name))
		case !apierrors.IsAlreadyExists(err):
			if ctx.Err() == nil {
				c.events.Event(store.StatefulSets, set, corev1.EventTypeWarning, "FailedCreate",
					fmt.Sprintf("create Claim %s for Pod %s in StatefulSet %s failed error: %v", claim.Name, pod, set.Name, err))
			}
			return fmt.Errorf("create claim %s: %w", claim.Name, err)
		}
	}
	for _, claim := range p.owned {
		if err := controller.Change(ctx, c.registry, resource.PersistentVolumeClaims, claim, "", func(now *corev1.PersistentVolumeClaim) bool {
			now.OwnerReferences = claim.OwnerReferences
			return true
		}); err != nil {
			return err
		}
	}
	for _, pod := range p.mend {
		if err := controller.Change(ctx, c.registry, resource.Pods, pod, "", func(now *corev1.Pod) bool {
			setIdentity(now)
			return true
		}); err != nil {
			return err
		}
	}
	return errors.Join(
		c.keeper.CreateMany(ctx, set, len(p.create), func(i int) *corev1.Pod { return p.create[i] }),
		c.keeper.Delete(ctx, set, p.remove))
}

// writeStatus stores a status that differs from the one the cache shows.
func (c *Controller) writeStatus(ctx context.Context, set *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error {
	if apiequality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	_, err := controller.WriteStatus(ctx, c.registry, resource.StatefulSets, set, func(now *appsv1.StatefulSet) { now.Status = status })
	return err
}
