// Package cronjob starts a Job of each CronJob at the times that its schedule names.
// Running it is package job's business.
//
// Between two times it does nothing: a timer in the controller's queue is all, and
// whoever leads next works out what is due from what is stored. If several times have
// passed meanwhile, the last one counts.
package cronjob

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const workers = 4

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	Caches   *controller.Caches
	Events   *controller.Recorder
	Logger   *slog.Logger
}

// Controller starts the jobs of CronJobs.
type Controller struct {
	registry *resource.Registry
	caches   *controller.Caches
	events   controller.Source
	loop     *controller.Loop[types.NamespacedName]
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, caches: cfg.Caches, events: cfg.Events.Source("cronjob-controller")}
	c.loop = controller.NewLoop("cronjob", workers, cfg.Logger, c.reconcile)
	c.caches.CronJobs.OnChange(func(_, now *batchv1.CronJob) {
		if now != nil {
			c.loop.Add(types.NamespacedName{Namespace: now.Namespace, Name: now.Name})
		}
	})
	c.caches.Jobs.OnChange(func(old, now *batchv1.Job) {
		for _, job := range []*batchv1.Job{old, now} {
			if job == nil {
				continue
			}
			if ref := metav1.GetControllerOfNoCopy(job); ref != nil && ref.Kind == store.CronJobs.Kind.Kind {
				c.loop.Add(types.NamespacedName{Namespace: job.Namespace, Name: ref.Name})
			}
		}
	})
	return c
}

// Run reconciles until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !c.caches.Synced(ctx) {
		return nil
	}
	return c.loop.Run(ctx)
}

func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) error {
	cj, p, err := c.plan(ctx, key)
	if err != nil || cj == nil {
		return err
	}
	for _, e := range p.told {
		c.events.Event(store.CronJobs, cj, e.typ, e.reason, e.message)
	}
	if err := c.carryOut(ctx, cj, p); err != nil {
		return err
	}
	if p.again > 0 {
		c.loop.AddAfter(key, p.again)
	}
	if p.create != nil || len(p.remove) > 0 {
		// The status tells of the jobs that there are now.
		if cj, p, err = c.plan(ctx, key); err != nil || cj == nil {
			return err
		}
	}
	if equal(cj.Status, p.status) {
		return nil
	}
	_, err = controller.WriteStatus(ctx, c.registry, resource.CronJobs, cj, func(now *batchv1.CronJob) { now.Status = p.status })
	return err
}

// plan looks at what is stored now. The cron job is nil if it is gone.
func (c *Controller) plan(ctx context.Context, key types.NamespacedName) (*batchv1.CronJob, plan, error) {
	for _, wait := range []func(context.Context, uint64) error{c.caches.CronJobs.WaitRevision, c.caches.Jobs.WaitRevision} {
		if err := wait(ctx, c.registry.Store().Revision()); err != nil {
			return nil, plan{}, err
		}
	}
	cj, ok := c.caches.CronJobs.Get(key.Namespace, key.Name)
	if !ok {
		return nil, plan{}, nil
	}
	return cj, makePlan(cj, c.caches.Jobs.ByIndex(controller.ByController, string(cj.UID)), time.Now()), nil
}

func (c *Controller) carryOut(ctx context.Context, cj *batchv1.CronJob, p plan) error {
	var failed error
	for _, job := range p.remove {
		_, _, err := c.registry.Delete(ctx, resource.Jobs, job.Namespace, job.Name, &metav1.DeleteOptions{
			PropagationPolicy: ptr.To(metav1.DeletePropagationBackground), Preconditions: &metav1.Preconditions{UID: &job.UID},
		})
		switch {
		case err == nil:
			c.events.Event(store.CronJobs, cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job "+job.Name)
		case apierrors.IsNotFound(err), apierrors.IsConflict(err): // gone already, or another of that name
		default:
			if ctx.Err() == nil {
				c.events.Event(store.CronJobs, cj, corev1.EventTypeWarning, "FailedDelete", fmt.Sprintf("Deleted job: %v", err))
			}
			failed = errors.Join(failed, fmt.Errorf("delete job %s: %w", job.Name, err))
		}
	}
	if failed != nil || p.create == nil {
		return failed
	}
	_, err := c.registry.Create(ctx, resource.Jobs, cj.Namespace, p.create, resource.CreateOptions{})
	switch {
	case err == nil:
		c.events.Event(store.CronJobs, cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job "+p.create.Name)
		return nil
	case apierrors.IsAlreadyExists(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // it was made by an attempt whose answer was lost, or is somebody's
	}
	if ctx.Err() == nil {
		c.events.Event(store.CronJobs, cj, corev1.EventTypeWarning, "FailedCreate", fmt.Sprintf("Error creating job: %v", err))
	}
	return fmt.Errorf("create job %s: %w", p.create.Name, err)
}

// equal leaves the versions of active jobs aside: they change all the time.
func equal(a, b batchv1.CronJobStatus) bool {
	if len(a.Active) != len(b.Active) {
		return false
	}
	for i := range a.Active {
		if a.Active[i].UID != b.Active[i].UID {
			return false
		}
	}
	a.Active, b.Active = nil, nil
	return apiequality.Semantic.DeepEqual(a, b)
}
