package resource

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

func rbacExamples() map[*Kind]store.Object {
	x := metav1.ObjectMeta{Name: "x"}
	reads := []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get"}}}
	alice := []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "alice"}}
	role := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}
	return map[*Kind]store.Object{
		Roles:               &rbacv1.Role{ObjectMeta: x, Rules: reads},
		ClusterRoles:        &rbacv1.ClusterRole{ObjectMeta: x, Rules: reads},
		RoleBindings:        &rbacv1.RoleBinding{ObjectMeta: x, Subjects: alice, RoleRef: role},
		ClusterRoleBindings: &rbacv1.ClusterRoleBinding{ObjectMeta: x, Subjects: alice, RoleRef: role},
	}
}

// Who made the binding was asked about this role and no other.
func TestABindingKeepsItsRole(t *testing.T) {
	r := newRegistry(t)
	must(t, r, RoleBindings, "default", rbacExamples()[RoleBindings])
	_, _, err := r.Update(t.Context(), RoleBindings, "default", "x", "", func(current store.Object) (store.Object, error) {
		current.(*rbacv1.RoleBinding).RoleRef.Name = "cluster-admin"
		return current, nil
	}, UpdateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "roleRef") {
		t.Errorf("error %v, want 422 about roleRef", err)
	}
}

func TestRolesAreHeldAgainstUpstreamsRules(t *testing.T) {
	r := newRegistry(t)
	for name, c := range map[string]struct {
		kind *Kind
		obj  store.Object
		want string
	}{
		"a rule without verbs": {Roles, &rbacv1.Role{Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}}}}, "rules[0].verbs"},
		"a path in a namespace": {Roles, &rbacv1.Role{Rules: []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}},
			"namespaced rules cannot apply to non-resource URLs"},
		"a binding of nothing": {ClusterRoleBindings, &rbacv1.ClusterRoleBinding{RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "x"}}, "roleRef.kind"},
	} {
		c.obj.SetName("x")
		ns := ""
		if c.kind.Namespaced() {
			ns = "default"
		}
		if _, err := r.Create(t.Context(), c.kind, ns, c.obj, CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want 422 with %q", name, err, c.want)
		}
	}
}
