package resource

import (
	"slices"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/musterhq/muster/control/store"
)

func TestEnsureRolesAddsWhatLacksAndNothingElse(t *testing.T) {
	r := newRegistry(t)
	ensure := func() {
		t.Helper()
		if err := EnsureRoles(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	ensure()
	table := store.Of[*rbacv1.ClusterRole](r.store, store.ClusterRoles)
	for _, name := range []string{"cluster-admin", "admin", "edit", "view", "system:node", "system:discovery", "system:controller:node-controller"} {
		if _, err := table.Get(t.Context(), "", name); err != nil {
			t.Errorf("cluster role %s: %v", name, err)
		}
	}
	if _, err := r.store.Table(store.RoleBindings).Get(t.Context(), "kube-system", "system::extension-apiserver-authentication-reader"); err != nil {
		t.Error(err)
	}
	before := r.store.Revision()
	ensure()
	if got := r.store.Revision(); got != before {
		t.Errorf("%d writes though all was there, want none", got-before)
	}

	change := func(name string, f func(*rbacv1.ClusterRole)) {
		t.Helper()
		if _, _, err := r.Update(t.Context(), ClusterRoles, "", name, "", func(current store.Object) (store.Object, error) {
			f(current.(*rbacv1.ClusterRole))
			return current, nil
		}, UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	more := rbacv1.PolicyRule{APIGroups: []string{"example.org"}, Resources: []string{"things"}, Verbs: []string{"get"}}
	change("system:node-problem-detector", func(r *rbacv1.ClusterRole) { r.Rules = []rbacv1.PolicyRule{more} })
	change("system:discovery", func(r *rbacv1.ClusterRole) {
		r.Rules = nil
		r.Annotations[rbacv1.AutoUpdateAnnotationKey] = "false"
	})
	if _, _, err := r.Delete(t.Context(), ClusterRoleBindings, "", "cluster-admin", nil); err != nil {
		t.Fatal(err)
	}
	ensure()
	detector, err := table.Get(t.Context(), "", "system:node-problem-detector")
	if err != nil || len(detector.Rules) < 2 || !slices.ContainsFunc(detector.Rules, func(r rbacv1.PolicyRule) bool { return slices.Equal(r.APIGroups, more.APIGroups) }) {
		t.Errorf("a role that was changed: %v, %v; want what lacked added, and the rest kept", detector.Rules, err)
	}
	if kept, err := table.Get(t.Context(), "", "system:discovery"); err != nil || len(kept.Rules) > 0 {
		t.Errorf("a role that is to be left alone: %v, %v; want it as it was", kept.Rules, err)
	}
	if _, err := r.store.Table(store.ClusterRoleBindings).Get(t.Context(), "", "cluster-admin"); err != nil {
		t.Errorf("a binding that was deleted: %v", err)
	}
}
