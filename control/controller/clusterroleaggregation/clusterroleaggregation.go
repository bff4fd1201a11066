// Package clusterroleaggregation fills in cluster roles that are put together
// from others: a role with an aggregation rule gets the rules of all roles that
// its selectors match. It writes rules of such roles and nothing else; who may
// have such a role is package admission's business.
package clusterroleaggregation

import (
	"cmp"
	"context"
	"log/slog"
	"slices"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// manager is whose the rules are, as upstream calls it.
const manager = "clusterrole-aggregation-controller"

// Config is what a Controller needs.
type Config struct {
	Registry *resource.Registry
	Logger   *slog.Logger
}

// Controller keeps aggregated roles as their selectors say.
type Controller struct {
	registry *resource.Registry
	roles    *store.Cache[*rbacv1.ClusterRole]
	loop     *controller.Loop[string]
}

// New returns a controller; it works while Run runs.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, roles: store.NewCache[*rbacv1.ClusterRole](cfg.Registry.Store(), store.ClusterRoles, nil)}
	c.loop = controller.NewLoop("clusterroleaggregation", 1, cfg.Logger, c.reconcile)
	// Any role may be a part of any other, and there are few.
	c.roles.OnChange(func(_, _ *rbacv1.ClusterRole) {
		for _, role := range c.roles.List() {
			if role.AggregationRule != nil {
				c.loop.Add(role.Name)
			}
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.roles.Run(ctx) })
	g.Go(func() error {
		select {
		case <-c.roles.Synced():
			return c.loop.Run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	role, ok := c.roles.Get("", name)
	if !ok || role.AggregationRule == nil {
		return nil
	}
	rules, err := aggregate(role, c.roles.List())
	if err != nil || equality.Semantic.DeepEqual(rules, role.Rules) {
		return err
	}
	_, _, err = c.registry.Update(ctx, resource.ClusterRoles, "", name, "", func(current store.Object) (store.Object, error) {
		now := current.(*rbacv1.ClusterRole)
		if now.UID == role.UID && now.AggregationRule != nil {
			now.Rules = rules
		}
		return now, nil
	}, resource.UpdateOptions{FieldManager: manager})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// aggregate is what role should allow: the rules of all roles that it selects but
// itself, each once, in the order of selectors and names. Roles that select one
// another end with the rules of all of them, and keep, as upstream, what they
// have from one another when it is gone from where it came.
func aggregate(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	slices.SortFunc(all, func(a, b *rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
	rules := []rbacv1.PolicyRule{}
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for _, part := range all {
			if part.Name == role.Name || !selector.Matches(labels.Set(part.Labels)) {
				continue
			}
			for _, rule := range part.Rules {
				if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(r, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, nil
}
