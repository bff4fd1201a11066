// Package flowschema says in the status of flow schemas whether there is the
// priority level that they name. One without is for no request. What schemas and
// levels mean is the API server's business.
package flowschema

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// manager is whose the condition is, as upstream calls it.
const manager = "api-priority-and-fairness-config-consumer-v1"

// Config is what a Controller needs.
type Config struct {
	Registry *resource.Registry
	Logger   *slog.Logger
}

// Controller keeps the conditions of all schemas.
type Controller struct {
	registry *resource.Registry
	schemas  *store.Cache[*flowcontrolv1.FlowSchema]
	levels   *store.Cache[*flowcontrolv1.PriorityLevelConfiguration]
	loop     *controller.Loop[string]
}

// New returns a controller; it works while Run runs.
func New(cfg Config) *Controller {
	s := cfg.Registry.Store()
	c := &Controller{
		registry: cfg.Registry,
		schemas:  store.NewCache[*flowcontrolv1.FlowSchema](s, store.FlowSchemas, nil),
		levels:   store.NewCache[*flowcontrolv1.PriorityLevelConfiguration](s, store.PriorityLevelConfigurations, nil),
	}
	c.loop = controller.NewLoop("flowschema", 1, cfg.Logger, c.reconcile)
	c.schemas.OnChange(func(_, now *flowcontrolv1.FlowSchema) {
		if now != nil {
			c.loop.Add(now.Name)
		}
	})
	// A level came or went: there are few schemas.
	c.levels.OnChange(func(before, now *flowcontrolv1.PriorityLevelConfiguration) {
		if before != nil && now != nil {
			return
		}
		for _, schema := range c.schemas.List() {
			c.loop.Add(schema.Name)
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.schemas.Run(ctx) })
	g.Go(func() error { return c.levels.Run(ctx) })
	g.Go(func() error {
		for _, synced := range []<-chan struct{}{c.schemas.Synced(), c.levels.Synced()} {
			select {
			case <-synced:
			case <-ctx.Done():
				return nil
			}
		}
		return c.loop.Run(ctx)
	})
	return g.Wait()
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	schema, ok := c.schemas.Get("", name)
	if !ok {
		return nil
	}
	_, there := c.levels.Get("", schema.Spec.PriorityLevelConfiguration.Name)
	if says(schema, there) {
		return nil
	}
	_, _, err := c.registry.Update(ctx, resource.FlowSchemas, "", name, "status", func(current store.Object) (store.Object, error) {
		now := current.(*flowcontrolv1.FlowSchema)
		if now.UID == schema.UID && now.Spec.PriorityLevelConfiguration == schema.Spec.PriorityLevelConfiguration && !says(now, there) {
			say(now, there, time.Now())
		}
		return now, nil // what has changed meanwhile comes round again
	}, resource.UpdateOptions{FieldManager: manager})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func isDangling(c flowcontrolv1.FlowSchemaCondition) bool {
	return c.Type == flowcontrolv1.FlowSchemaConditionDangling
}

// wanted is the condition of a schema, but for its time.
func wanted(schema *flowcontrolv1.FlowSchema, there bool) flowcontrolv1.FlowSchemaCondition {
	level := schema.Spec.PriorityLevelConfiguration.Name
	if there {
		return flowcontrolv1.FlowSchemaCondition{
			Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found",
			Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", level),
		}
	}
	return flowcontrolv1.FlowSchemaCondition{
		Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionTrue, Reason: "NotFound",
		Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", level),
	}
}

func says(schema *flowcontrolv1.FlowSchema, there bool) bool {
	want := wanted(schema, there)
	return slices.ContainsFunc(schema.Status.Conditions, func(c flowcontrolv1.FlowSchemaCondition) bool {
		return isDangling(c) && c.Status == want.Status && c.Reason == want.Reason && c.Message == want.Message
	})
}

// say replaces the condition. It has been so since now, unless only the words are
// others.
func say(schema *flowcontrolv1.FlowSchema, there bool, now time.Time) {
	want := wanted(schema, there)
	want.LastTransitionTime = metav1.NewTime(now)
	at := slices.IndexFunc(schema.Status.Conditions, isDangling)
	if at < 0 {
		schema.Status.Conditions = append(schema.Status.Conditions, want)
		return
	}
	if schema.Status.Conditions[at].Status == want.Status {
		want.LastTransitionTime = schema.Status.Conditions[at].LastTransitionTime
	}
	schema.Status.Conditions[at] = want
}
