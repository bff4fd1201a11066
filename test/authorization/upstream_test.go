package authorization

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"go.uber.org/goleak"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/kubernetes/pkg/registry/rbac/validation"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"

	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("k8s.io/klog/v2.(*flushDaemon).run.func1"))
}

// A small world, so that random questions often meet random rules.
var (
	verbs        = []string{"get", "list", "watch", "create", "update", "patch", "delete", "*"}
	groups       = []string{"", "apps", "*"}
	resources    = []string{"pods", "pods/log", "secrets", "deployments", "deployments/scale", "*", "*/scale", "*/log", "pods/*"}
	names        = []string{"a", "b"}
	paths        = []string{"/api", "/api/*", "/apis/*", "*", "/healthz", "/metrics*"}
	namespaces   = []string{"n1", "n2"}
	users        = []string{"alice", "bob", "system:serviceaccount:n1:robot", "system:serviceaccount:n2:robot"}
	userGroups   = []string{"dev", "ops", "system:serviceaccounts:n1"}
	asked        = []string{"pods", "secrets", "deployments", ""}
	subresources = []string{"", "", "log", "scale", "*"}
)

func one[T any](r *rand.Rand, of []T) T { return of[r.IntN(len(of))] }

func some[T any](r *rand.Rand, of []T) []T {
	var out []T
	for range 1 + r.IntN(2) {
		out = append(out, one(r, of))
	}
	return out
}

func rules(r *rand.Rand, urls bool) []rbacv1.PolicyRule {
	var all []rbacv1.PolicyRule
	for range r.IntN(3) {
		rule := rbacv1.PolicyRule{Verbs: some(r, verbs)}
		if urls && r.IntN(3) == 0 {
			rule.NonResourceURLs = some(r, paths)
		} else {
			rule.APIGroups, rule.Resources = some(r, groups), some(r, resources)
			if r.IntN(3) == 0 {
				rule.ResourceNames = some(r, names)
			}
		}
		all = append(all, rule)
	}
	return all
}

func subjects(r *rand.Rand) []rbacv1.Subject {
	var all []rbacv1.Subject
	for range r.IntN(3) {
		switch r.IntN(3) {
		case 0:
			all = append(all, rbacv1.Subject{Kind: rbacv1.UserKind, Name: one(r, users)})
		case 1:
			all = append(all, rbacv1.Subject{Kind: rbacv1.GroupKind, Name: one(r, userGroups)})
		case 2:
			all = append(all, rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: "robot", Namespace: one(r, append(namespaces, ""))})
		}
	}
	return all
}

func create(t *testing.T, s *store.Store, spec *store.Spec, obj store.Object) {
	t.Helper()
	if _, err := s.Table(spec).Create(t.Context(), obj); err != nil {
		t.Fatal(err)
	}
}

func running(t *testing.T, s *store.Store) *auth.Authorizer {
	t.Helper()
	a := auth.NewAuthorizer(s)
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return a
}

func TestRolesAllowWhatUpstreamAllows(t *testing.T) {
	const worlds, questions = 60, 400
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	allowed := 0
	for range worlds {
		s := storetest.New(t)
		var roles []*rbacv1.Role
		var clusterRoles []*rbacv1.ClusterRole
		var bindings []*rbacv1.RoleBinding
		var clusterBindings []*rbacv1.ClusterRoleBinding
		for i := range 4 {
			clusterRoles = append(clusterRoles, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("r", i)}, Rules: rules(r, true)})
			create(t, s, store.ClusterRoles, clusterRoles[i])
			roles = append(roles, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespaces[i%2], Name: fmt.Sprint("r", i)}, Rules: rules(r, false)})
			create(t, s, store.Roles, roles[i])
		}
		for i := range 4 {
			ref := func() rbacv1.RoleRef { // r4 is not there
				return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: one(r, []string{"Role", "ClusterRole"}), Name: fmt.Sprint("r", r.IntN(5))}
			}
			clusterBindings = append(clusterBindings, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("b", i)}, RoleRef: ref(), Subjects: subjects(r)})
			clusterBindings[i].RoleRef.Kind = "ClusterRole"
			create(t, s, store.ClusterRoleBindings, clusterBindings[i])
			bindings = append(bindings, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespaces[i%2], Name: fmt.Sprint("b", i)}, RoleRef: ref(), Subjects: subjects(r)})
			create(t, s, store.RoleBindings, bindings[i])
		}
		ours := running(t, s)
		_, static := validation.NewTestRuleResolver(roles, bindings, clusterRoles, clusterBindings)
		upstreams := rbac.New(static, static, static, static)
		for range questions {
			who := &user.DefaultInfo{Name: one(r, users), Groups: some(r, userGroups)}
			request := auth.Attributes{User: who, Verb: one(r, verbs[:7])}
			question := authorizer.AttributesRecord{User: who, Verb: request.Verb}
			if request.Resource = one(r, asked); request.Resource == "" {
				request.Path = one(r, []string{"/api", "/api/v1", "/apis/apps", "/healthz", "/healthz/x", "/metrics", "/metrics/a"})
				question.Path = request.Path
			} else {
				request.Group, request.Subresource, request.Name = one(r, groups[:2]), one(r, subresources), one(r, append(names, "", "c"))
				request.Namespace = one(r, append(namespaces, ""))
				question.ResourceRequest, question.Resource, question.APIGroup = true, request.Resource, request.Group
				question.Subresource, question.Name, question.Namespace = request.Subresource, request.Name, request.Namespace
			}
			decision, err := ours.Authorize(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			theirs, _, _ := upstreams.Authorize(t.Context(), &question)
			if want := theirs == authorizer.DecisionAllow; decision.Allowed != want {
				t.Fatalf("seed %d: %+v by %+v: allowed %t (%s), upstream %t\ncluster roles %v\nbindings %v\nroles %v\nbindings %v",
					seed, request, who, decision.Allowed, decision.Reason(), want, clusterRoles, clusterBindings, roles, bindings)
			}
			if decision.Allowed {
				allowed++
			}
		}
	}
	if allowed < worlds*questions/50 {
		t.Errorf("%d of %d questions were allowed: the worlds are too empty to show anything", allowed, worlds*questions)
	}
}
