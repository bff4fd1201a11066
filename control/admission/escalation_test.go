package admission

import (
	"context"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// newRoles is a registry whose authorizer runs.
func newRoles(t *testing.T) *resource.Registry {
	t.Helper()
	s := storetest.New(t)
	authorizer := auth.NewAuthorizer(s)
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- authorizer.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	r := resource.New(s, New(s, Settings{Rights: authorizer}))
	if err := resource.EnsureBootstrap(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	return r
}

func allows(verbs []string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{"", rbacv1.GroupName}, Resources: resources, Verbs: verbs}
}

// Whoever may write roles could otherwise write themselves any.
func TestRightsAreGivenByThoseWhoHaveThem(t *testing.T) {
	r := newRoles(t)
	put := func(ctx context.Context, kind *resource.Kind, ns string, obj store.Object) error {
		_, err := r.Create(ctx, kind, ns, obj, resource.CreateOptions{})
		return err
	}
	role := func(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
	}
	bind := func(name, kind, to, who string) *rbacv1.ClusterRoleBinding {
		return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: to},
			Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: who}}}
	}
	// Alice reads pods, Bob may bind the role "secrets" and write any role.
	for _, obj := range []store.Object{
		role("pods", allows([]string{"get", "list"}, "pods")), role("secrets", allows([]string{"get"}, "secrets")),
		role("binder", rbacv1.PolicyRule{APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles"}, Verbs: []string{"bind"}, ResourceNames: []string{"secrets"}},
			rbacv1.PolicyRule{APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles"}, Verbs: []string{"escalate"}}),
	} {
		if err := put(t.Context(), resource.ClusterRoles, "", obj); err != nil {
			t.Fatal(err)
		}
	}
	for _, obj := range []store.Object{bind("a", "ClusterRole", "pods", "alice"), bind("b", "ClusterRole", "binder", "bob")} {
		if err := put(t.Context(), resource.ClusterRoleBindings, "", obj); err != nil {
			t.Fatal(err)
		}
	}
	alice, bob, admin := as(t.Context(), "alice"), as(t.Context(), "bob"), as(t.Context(), "root", user.SystemPrivilegedGroup)

	const held = "attempting to grant RBAC permissions not currently held"
	refused(t, "a role with what alice has", put(alice, resource.ClusterRoles, "", role("r1", allows([]string{"get"}, "pods"))), "")
	refused(t, "a role with more", put(alice, resource.ClusterRoles, "", role("r2", allows([]string{"get"}, "pods", "secrets"))), held)
	refused(t, "one in a namespace", put(alice, resource.Roles, "default", &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "r3"}, Rules: []rbacv1.PolicyRule{allows([]string{"*"}, "*")}}), held)
	refused(t, "any role, by one who may escalate", put(bob, resource.ClusterRoles, "", role("r4", allows([]string{"*"}, "*"))), "")
	refused(t, "any role, by an administrator", put(admin, resource.ClusterRoles, "", role("r5", allows([]string{"*"}, "*"))), "")
	aggregated := role("r6")
	aggregated.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}}
	refused(t, "a role that gathers", put(alice, resource.ClusterRoles, "", aggregated.DeepCopy()), "must have cluster-admin privileges to use the aggregationRule")

	change := func(ctx context.Context, name string, f func(*rbacv1.ClusterRole)) error {
		_, _, err := r.Update(ctx, resource.ClusterRoles, "", name, "", func(current store.Object) (store.Object, error) {
			f(current.(*rbacv1.ClusterRole))
			return current, nil
		}, resource.UpdateOptions{})
		return err
	}
	refused(t, "more in a role that is there", change(alice, "r1", func(r *rbacv1.ClusterRole) { r.Rules[0].Verbs = []string{"*"} }), held)
	refused(t, "the label of a role with more", change(alice, "r5", func(r *rbacv1.ClusterRole) { r.Labels = map[string]string{"a": "b"} }), held)
	refused(t, "what collects garbage, in a role with more", change(alice, "r5", func(r *rbacv1.ClusterRole) { r.Finalizers = []string{"example.org/a"} }), "")

	refused(t, "a binding of what alice has", put(alice, resource.ClusterRoleBindings, "", bind("b1", "ClusterRole", "pods", "carol")), "")
	refused(t, "a binding of more", put(alice, resource.ClusterRoleBindings, "", bind("b2", "ClusterRole", "secrets", "alice")), held)
	refused(t, "a binding of a role that bob may bind", put(bob, resource.ClusterRoleBindings, "", bind("b3", "ClusterRole", "secrets", "carol")), "")
	refused(t, "a binding of another", put(bob, resource.ClusterRoleBindings, "", bind("b4", "ClusterRole", "pods", "carol")), held)
	if err := put(alice, resource.ClusterRoleBindings, "", bind("b5", "ClusterRole", "none", "alice")); !apierrors.IsNotFound(err) {
		t.Errorf("a binding of a role that is not there: %v, want 404", err)
	}
	subjects := func(ctx context.Context, name string) error {
		_, _, err := r.Update(ctx, resource.ClusterRoleBindings, "", name, "", func(current store.Object) (store.Object, error) {
			b := current.(*rbacv1.ClusterRoleBinding)
			b.Subjects = append(b.Subjects, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "everybody"})
			return b, nil
		}, resource.UpdateOptions{})
		return err
	}
	refused(t, "more subjects of what alice has", subjects(alice, "b1"), "")
	refused(t, "more subjects of more", subjects(alice, "b3"), held)
}
