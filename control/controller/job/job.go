// Package job runs the pods of Jobs until as many have succeeded as asked for, or too
// many have failed, and deletes jobs that have ended once their time to live is over.
//
// A reconcile looks at all pods of a job (look, a pure function), makes and deletes
// pods, looks again, and stores the status. Which pods were counted is kept by a
// finalizer on each and by their uids in the status, as upstream does it, so the count
// is right whatever a leader is interrupted by.
package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	batchv1 "k8s.io/api/batch/v1"
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

const (
	workers = 8
	writers = 64
	// batch is how long changes of a job's pods are gathered, so that a status is
	// not written for each.
	batch = 100 * time.Millisecond
)

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	Logger   *slog.Logger
}

// Controller runs Jobs.
type Controller struct {
	registry *resource.Registry
	caches   *controller.Caches
	events   controller.Source
	keeper   *controller.Keeper
	jobs     *controller.Loop[types.NamespacedName]
	orphans  *controller.Loop[types.NamespacedName] // pods that may have lost their job
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	events := cfg.Events.Source("job-controller")
	c := &Controller{
		registry: cfg.Registry,
		caches:   cfg.Caches,
		events:   events,
		keeper:   controller.NewKeeper(cfg.Registry, events, store.Jobs, cfg.Caches.Jobs),
	}
	c.jobs = controller.NewLoop("job", workers, cfg.Logger, c.reconcile)
	c.orphans = controller.NewLoop("job-orphans", workers, cfg.Logger, c.releaseOrphan)
	c.caches.Jobs.OnChange(c.onJob)
	c.caches.Pods.OnChange(c.onPod)
	return c
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !c.caches.Synced(ctx) {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.jobs.Run(ctx) })
	g.Go(func() error { return c.orphans.Run(ctx) })
	return g.Wait()
}

func (c *Controller) onJob(old, now *batchv1.Job) {
	if now != nil {
		c.jobs.Add(types.NamespacedName{Namespace: now.Namespace, Name: now.Name})
	} else {
		c.keeper.Forget(old.UID)
	}
	job := now
	if job == nil {
		job = old
	}
	if _, ended := finished(job); now == nil || ended {
		for _, pod := range c.caches.Pods.ByIndex(controller.ByController, string(job.UID)) {
			c.addOrphan(pod)
		}
	}
}

func (c *Controller) addOrphan(pod *corev1.Pod) {
	if isTracked(pod) {
		c.orphans.Add(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
	}
}

func (c *Controller) onPod(old, now *corev1.Pod) {
	for _, pod := range []*corev1.Pod{old, now} {
		if pod == nil {
			continue
		}
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref != nil && ref.Kind == store.Jobs.Kind.Kind && ref.APIVersion == batchv1.SchemeGroupVersion.String() {
			c.jobs.AddAfter(types.NamespacedName{Namespace: pod.Namespace, Name: ref.Name}, batch)
		}
		if pod != now {
			continue
		}
		if ref == nil {
			for _, job := range c.caches.Jobs.ByIndex(controller.ByNamespace, pod.Namespace) {
				if controller.SelectorOf(job.Spec.Selector).Matches(labels.Set(pod.Labels)) {
					c.jobs.Add(types.NamespacedName{Namespace: job.Namespace, Name: job.Name})
				}
			}
		}
		if job, ok := c.caches.Jobs.Get(pod.Namespace, nameOf(ref)); !ok || job.UID != ref.UID {
			c.addOrphan(pod)
		}
	}
}

func nameOf(ref *metav1.OwnerReference) string {
	if ref == nil {
		return ""
	}
	return ref.Name
}

// isOthers: a job may name another controller that runs it.
func isOthers(job *batchv1.Job) bool {
	return job.Spec.ManagedBy != nil && *job.Spec.ManagedBy != batchv1.JobControllerName
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	if err := c.caches.Jobs.WaitRevision(ctx, c.registry.Store().Revision()); err != nil {
		return err
	}
	job, ok := c.caches.Jobs.Get(key.Namespace, key.Name)
	if !ok || isOthers(job) {
		return nil
	}
	if at, ended := finished(job); ended {
		return c.expire(ctx, job, at)
	}
	own, adopt, release, err := c.pods(ctx, job)
	if err != nil {
		return err
	}
	if len(adopt)+len(release) > 0 {
		// What is adopted is counted, too.
		if err := c.keeper.Claim(ctx, job, adopt, release, func(pod *corev1.Pod) {
			if !isTracked(pod) {
				pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
			}
		}); err != nil {
			return err
		}
		return c.reconcile(ctx, key)
	}
	p := look(job, own, time.Now()).decide()
	failed := c.carryOut(ctx, job, p)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if p.again > 0 {
		c.jobs.AddAfter(key, p.again)
	}
	if own, _, _, err = c.pods(ctx, job); err != nil {
		return errors.Join(failed, err)
	}
	return errors.Join(failed, c.store(ctx, job, look(job, own, time.Now()).track()))
}

// pods are all that are stored now, sorted by whose they are.
func (c *Controller) pods(ctx context.Context, job *batchv1.Job) (own, adopt, release []*corev1.Pod, err error) {
	if err := c.caches.Pods.WaitRevision(ctx, c.registry.Store().Revision()); err != nil {
		return nil, nil, nil, err
	}
	own, adopt, release = controller.ClaimedPods(job, controller.SelectorOf(job.Spec.Selector),
		c.caches.Pods.ByIndex(controller.ByController, string(job.UID)),
		c.caches.Pods.ByIndex(controller.PodsOnTheirOwn, job.Namespace))
	slices.SortFunc(own, func(a, b *corev1.Pod) int { return missedLeast(b, a) })
	return own, adopt, release, nil
}

func (c *Controller) carryOut(ctx context.Context, job *batchv1.Job, p plan) error {
	if p.uncounted {
		if err := c.release(ctx, p.remove); err != nil {
			return err
		}
	}
	return errors.Join(
		c.keeper.Delete(ctx, job, p.remove),
		c.keeper.CreateMany(ctx, job, len(p.create), func(i int) *corev1.Pod {
			pod := c.keeper.PodOf(job, p.create[i].template(job))
			if index := p.create[i].index; index >= 0 {
				// What is generated after it is 5 long, of 63 that a name may have.
				after := "-" + strconv.Itoa(index) + "-"
				pod.GenerateName = job.Name[:min(len(job.Name), 58-len(after))] + after
			}
			return pod
		}))
}

// release takes the finalizer off pods that are counted, or not to be.
func (c *Controller) release(ctx context.Context, pods []*corev1.Pod) error {
	var g errgroup.Group
	g.SetLimit(writers)
	for _, pod := range pods {
		g.Go(func() error {
			return controller.Change(ctx, c.registry, resource.Pods, pod, "", func(now *corev1.Pod) bool {
				if !isTracked(now) {
					return false
				}
				now.Finalizers = slices.DeleteFunc(now.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
				return true
			})
		})
	}
	return g.Wait()
}

// store writes the status first, and then lets the pods go that are in it.
func (c *Controller) store(ctx context.Context, job *batchv1.Job, o outcome) error {
	if !apiequality.Semantic.DeepEqual(job.Status, o.status) {
		written, err := controller.WriteStatus(ctx, c.registry, resource.Jobs, job, func(now *batchv1.Job) { now.Status = o.status })
		if !written {
			return err // what is not noted must stay
		}
		c.tell(job, o)
	}
	return c.release(ctx, o.release)
}

// tell records what has become of a job.
func (c *Controller) tell(job *batchv1.Job, o outcome) {
	was, is := condition(&job.Status, batchv1.JobSuspended), condition(&o.status, batchv1.JobSuspended)
	if is != nil && (was == nil || was.Status != is.Status) {
		reason := "Suspended"
		if is.Status != corev1.ConditionTrue {
			reason = "Resumed"
		}
		c.events.Event(store.Jobs, job, corev1.EventTypeNormal, reason, is.Message)
	}
	switch {
	case o.ended == nil:
	case o.ended.Type == batchv1.JobComplete:
		if job.Spec.Completions != nil && o.status.Succeeded > *job.Spec.Completions {
			c.events.Event(store.Jobs, job, corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
		}
		c.events.Event(store.Jobs, job, corev1.EventTypeNormal, "Completed", "Job completed")
	default:
		c.events.Event(store.Jobs, job, corev1.EventTypeWarning, o.ended.Reason, o.ended.Message)
	}
}

// releaseOrphan takes the finalizer off a pod whose job is gone, or has ended: nobody
// will count it.
func (c *Controller) releaseOrphan(ctx context.Context, key types.NamespacedName) error {
	for _, wait := range []func(context.Context, uint64) error{c.caches.Jobs.WaitRevision, c.caches.Pods.WaitRevision} {
		if err := wait(ctx, c.registry.Store().Revision()); err != nil {
			return err
		}
	}
	pod, ok := c.caches.Pods.Get(key.Namespace, key.Name)
	if !ok || !isTracked(pod) {
		return nil
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		if ref.Kind != store.Jobs.Kind.Kind {
			return nil
		}
		if job, ok := c.caches.Jobs.Get(pod.Namespace, ref.Name); ok && job.UID == ref.UID {
			if _, ended := finished(job); !ended || isOthers(job) {
				return nil
			}
		}
	}
	return c.release(ctx, []*corev1.Pod{pod})
}

// expire deletes a job whose time to live after its end is over.
func (c *Controller) expire(ctx context.Context, job *batchv1.Job, ended time.Time) error {
	if job.Spec.TTLSecondsAfterFinished == nil || job.DeletionTimestamp != nil {
		return nil
	}
	key := types.NamespacedName{Namespace: job.Namespace, Name: job.Name}
	if left := time.Until(ended.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second)); left > 0 {
		c.jobs.AddAfter(key, left)
		return nil
	}
	// The version too: who has just given it longer must not lose it.
	foreground := metav1.DeletePropagationForeground
	_, _, err := c.registry.Delete(ctx, resource.Jobs, job.Namespace, job.Name, &metav1.DeleteOptions{
		PropagationPolicy: &foreground,
		Preconditions:     &metav1.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete job that has expired: %w", err)
	}
	return nil
}
