// Package apiservice keeps APIServices: one for each version of a group that
// control nodes serve themselves, and of the others whether the service behind
// them answers.
package apiservice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	workers = 4
	// recheck is how often a service that answers is asked again, and how often
	// groups that come and go are looked for.
	recheck = 30 * time.Second
	// retry is how often one is that does not. Most are waiting for their pods,
	// which is seen without asking anybody.
	retry = 2 * time.Second
)

// local is the key of the APIServices of what is served here. No object has it.
const local = ""

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	// Probe asks a service for what it must serve. An error comes with a reason
	// for the condition.
	Probe  func(context.Context, *apiregistrationv1.APIService) (reason string, err error)
	Logger *slog.Logger
}

// Controller keeps APIServices.
type Controller struct {
	cfg      Config
	services *store.Cache[*apiregistrationv1.APIService]
	loop     *controller.Loop[string]
}

// New prepares a controller.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg, services: store.NewCache[*apiregistrationv1.APIService](cfg.Registry.Store(), store.APIServices, nil)}
	c.loop = controller.NewLoop("apiservice", workers, cfg.Logger, c.reconcile)
	c.services.OnChange(func(old, now *apiregistrationv1.APIService) {
		switch {
		case now == nil:
			c.loop.Add(local) // it may have been one that must be there
		case now.Spec.Service != nil && (old == nil || old.Generation != now.Generation || old.ResourceVersion != now.ResourceVersion && !sameSpec(old, now)):
			c.loop.Add(now.Name)
		}
	})
	return c
}

func sameSpec(a, b *apiregistrationv1.APIService) bool {
	return a.UID == b.UID && a.Spec.InsecureSkipTLSVerify == b.Spec.InsecureSkipTLSVerify && string(a.Spec.CABundle) == string(b.Spec.CABundle) &&
		a.Spec.Service != nil && b.Spec.Service != nil && a.Spec.Service.Namespace == b.Spec.Service.Namespace && a.Spec.Service.Name == b.Spec.Service.Name
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.services.Run(ctx) })
	group.Go(func() error {
		select {
		case <-c.services.Synced():
		case <-ctx.Done():
			return nil
		}
		c.loop.Add(local)
		return c.loop.Run(ctx)
	})
	return group.Wait()
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	if name == local {
		c.loop.AddAfter(local, recheck)
		return c.register(ctx)
	}
	service, ok := c.services.Get("", name)
	if !ok || service.Spec.Service == nil {
		return nil
	}
	condition := apiregistrationv1.APIServiceCondition{
		Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue, Reason: "Passed", Message: "all checks passed",
	}
	again := recheck
	if reason, err := c.cfg.Probe(ctx, service); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		condition.Status, condition.Reason, condition.Message = apiregistrationv1.ConditionFalse, reason, err.Error()
		again = retry
	}
	c.loop.AddAfter(name, again)
	return c.say(ctx, service, condition)
}

// errNothing: the object is not the one that was looked at, or says it already.
var errNothing = errors.New("nothing to change")

// say writes the condition unless it is there. The message of a failure may
// change each time, so it alone is no reason to write.
func (c *Controller) say(ctx context.Context, service *apiregistrationv1.APIService, condition apiregistrationv1.APIServiceCondition) error {
	_, _, err := c.cfg.Registry.Update(ctx, resource.APIServices, "", service.Name, "status", func(current store.Object) (store.Object, error) {
		now := current.(*apiregistrationv1.APIService)
		if now.UID != service.UID {
			return nil, errNothing
		}
		condition.LastTransitionTime = metav1.Now()
		for i := range now.Status.Conditions {
			have := &now.Status.Conditions[i]
			if have.Type != condition.Type {
				continue
			}
			if have.Status == condition.Status && have.Reason == condition.Reason {
				return nil, errNothing
			}
			if have.Status == condition.Status {
				condition.LastTransitionTime = have.LastTransitionTime
			}
			*have = condition
			return now, nil
		}
		now.Status.Conditions = append(now.Status.Conditions, condition)
		return now, nil
	}, resource.UpdateOptions{})
	if err == nil {
		c.cfg.Logger.Info("aggregated API", "apiservice", service.Name, "available", condition.Status, "reason", condition.Reason)
	}
	if errors.Is(err, errNothing) || apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("status of apiservice %s: %w", service.Name, err)
	}
	return nil
}
