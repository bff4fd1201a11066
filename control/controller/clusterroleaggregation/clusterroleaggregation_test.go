package clusterroleaggregation

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func role(name, label string, gathers []string, resources ...string) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if label != "" {
		r.Labels = map[string]string{"to": label}
	}
	for _, resource := range resources {
		r.Rules = append(r.Rules, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{resource}, Verbs: []string{"get"}})
	}
	for _, label := range gathers {
		if r.AggregationRule == nil {
			r.AggregationRule = &rbacv1.AggregationRule{}
		}
		r.AggregationRule.ClusterRoleSelectors = append(r.AggregationRule.ClusterRoleSelectors, metav1.LabelSelector{MatchLabels: map[string]string{"to": label}})
	}
	return r
}

func resources(rules []rbacv1.PolicyRule) string {
	var all []string
	for _, r := range rules {
		all = append(all, r.Resources...)
	}
	return strings.Join(all, " ")
}

func TestRolesGatherWhatTheySelect(t *testing.T) {
	all := []*rbacv1.ClusterRole{
		role("b", "view", nil, "secrets", "pods"), role("a", "view", nil, "pods"), role("c", "edit", nil, "services"),
		role("own", "view", []string{"view"}, "stale"),
	}
	for _, c := range []struct {
		gathers []string
		want    string
	}{
		{[]string{"view"}, "pods secrets stale"},
		{[]string{"edit", "view"}, "services pods secrets stale"},
		{[]string{"nothing"}, ""},
	} {
		rules, err := aggregate(role("x", "", c.gathers), slices.Clone(all))
		if got := resources(rules); err != nil || got != c.want {
			t.Errorf("%v: %q, %v; want %q", c.gathers, got, err, c.want)
		}
	}
	if rules, err := aggregate(all[3], slices.Clone(all)); err != nil || resources(rules) != "pods secrets" {
		t.Errorf("a role that selects itself: %q, %v; want the others' rules", resources(rules), err)
	}
}

// Roles that select one another could feed each other for ever.
func TestRolesThatSelectOneAnotherComeToRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := storetest.New(t)
		c := controllertest.Begin(t, s)
		for _, r := range []*rbacv1.ClusterRole{role("x", "y", []string{"x"}), role("y", "x", []string{"y"}), role("seed", "x", nil, "pods")} {
			if _, err := c.Registry.Create(t.Context(), resource.ClusterRoles, "", r, resource.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan error)
		controller := New(Config{Registry: c.Registry, Logger: c.Logger})
		go func() { ended <- controller.Run(ctx) }()
		check := func(name, want string) {
			t.Helper()
			synctest.Wait()
			got, err := store.Of[*rbacv1.ClusterRole](s, store.ClusterRoles).Get(t.Context(), "", name)
			if err != nil || resources(got.Rules) != want {
				t.Errorf("%s: %q, %v; want %q", name, resources(got.Rules), err, want)
			}
		}
		check("x", "pods")
		check("y", "pods")
		at := s.Revision()
		synctest.Wait()
		if got := s.Revision(); got != at {
			t.Errorf("%d writes more at rest", got-at)
		}
		if _, err := c.Registry.Create(t.Context(), resource.ClusterRoles, "", role("more", "y", nil, "secrets"), resource.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		check("x", "pods secrets")
		check("y", "secrets pods")
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
