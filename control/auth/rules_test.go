package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// cluster is an authorizer that runs over a store in memory.
type cluster struct {
	*Authorizer
	t     testing.TB
	store *store.Store
	log   *storetest.Log
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	s, log, _ := storetest.Open(t)
	c := &cluster{NewAuthorizer(s), t, s, log}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return c
}

func (c *cluster) create(spec *store.Spec, objects ...store.Object) {
	c.t.Helper()
	for _, obj := range objects {
		if _, err := c.store.Table(spec).Create(context.Background(), obj); err != nil {
			c.t.Fatal(err)
		}
	}
}

func (c *cluster) may(request Attributes) Decision {
	c.t.Helper()
	decision, err := c.Authorize(context.Background(), request)
	if err != nil {
		c.t.Fatal(err)
	}
	return decision
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func rule(verbs, groups, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), APIGroups: strings.Split(groups, ","), Resources: strings.Split(resources, ","), ResourceNames: names}
}

func role(namespace, name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: meta(namespace, name), Rules: rules}
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: meta("", name), Rules: rules}
}

func ref(kind, name string) rbacv1.RoleRef {
	return rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}
}

func subject(kind, namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: kind, Namespace: namespace, Name: name}
}

func binding(namespace, name string, to rbacv1.RoleRef, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{ObjectMeta: meta(namespace, name), RoleRef: to, Subjects: subjects}
}

func clusterBinding(name, to string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: meta("", name), RoleRef: ref("ClusterRole", to), Subjects: subjects}
}

func TestRolesAllowWhatTheySay(t *testing.T) {
	c := newCluster(t)
	c.create(store.ClusterRoles,
		clusterRole("reader", rule("get,list", "", "pods,pods/log"), rule("*", "apps", "*"), rule("get", "", "secrets", "mine"), rule("update", "*", "*/scale")),
		clusterRole("discovery", rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/api", "/apis/*", "/livez"}}))
	c.create(store.Roles, role("team", "writer", rule("create", "", "pods")))
	c.create(store.ClusterRoleBindings,
		clusterBinding("a", "reader", subject(rbacv1.GroupKind, "", "readers")),
		clusterBinding("b", "discovery", subject(rbacv1.UserKind, "", "alice"), subject(rbacv1.UserKind, "", "bob")),
		clusterBinding("c", "reader", subject(rbacv1.ServiceAccountKind, "kube-system", "robot"), subject(rbacv1.ServiceAccountKind, "", "nowhere")))
	c.create(store.RoleBindings,
		binding("team", "d", ref("Role", "writer"), subject(rbacv1.ServiceAccountKind, "", "builder")),
		binding("team", "e", ref("ClusterRole", "reader"), subject(rbacv1.UserKind, "", "alice")),
		binding("other", "f", ref("Role", "writer"), subject(rbacv1.UserKind, "", "alice")))

	alice := person("alice")
	reader := person("carol", "x", "readers")
	robot := person("system:serviceaccount:kube-system:robot")
	builder := person("system:serviceaccount:team:builder")
	pods := func(u user.Info, verb, namespace, sub string) Attributes {
		return Attributes{User: u, Verb: verb, Resource: "pods", Subresource: sub, Namespace: namespace}
	}
	for _, test := range []struct {
		name    string
		request Attributes
		want    bool
	}{
		{"a group's", pods(reader, "list", "", ""), true},
		{"a group's, in a namespace", pods(reader, "get", "team", ""), true},
		{"another verb", pods(reader, "delete", "team", ""), false},
		{"a subresource that is named", pods(reader, "get", "team", "log"), true},
		{"one that is not", pods(reader, "get", "team", "status"), false},
		{"a subresource of all", Attributes{User: reader, Verb: "update", Group: "x", Resource: "things", Subresource: "scale"}, true},
		{"all of a group", Attributes{User: reader, Verb: "delete", Group: "apps", Resource: "deployments"}, true},
		{"the same in another group", Attributes{User: reader, Verb: "delete", Group: "batch", Resource: "deployments"}, false},
		{"one name", Attributes{User: reader, Verb: "get", Resource: "secrets", Name: "mine", Namespace: "team"}, true},
		{"another name", Attributes{User: reader, Verb: "get", Resource: "secrets", Name: "yours", Namespace: "team"}, false},
		{"no name", Attributes{User: reader, Verb: "get", Resource: "secrets", Namespace: "team"}, false},
		{"a path", Attributes{User: alice, Verb: "get", Path: "/api"}, true},
		{"below a path with a star", Attributes{User: alice, Verb: "get", Path: "/apis/apps/v1"}, true},
		{"below a path without", Attributes{User: alice, Verb: "get", Path: "/api/v1"}, false},
		{"a path that begins alike", Attributes{User: alice, Verb: "get", Path: "/livezz"}, false},
		{"another verb on a path", Attributes{User: alice, Verb: "post", Path: "/api"}, false},
		{"a service account", pods(robot, "list", "", ""), true},
		{"one of another namespace", pods(person("system:serviceaccount:team:robot"), "list", "", ""), false},
		{"one without a namespace in a binding that has none", pods(person("system:serviceaccount::nowhere"), "list", "", ""), false},
		{"a service account of the binding's namespace", pods(builder, "create", "team", ""), true},
		{"there alone", pods(builder, "create", "other", ""), false},
		{"and not everywhere", pods(builder, "create", "", ""), false},
		{"a cluster role in one namespace", pods(alice, "list", "team", ""), true},
		{"not in another", pods(alice, "list", "other", ""), false},
		{"not in all", pods(alice, "list", "", ""), false},
		{"a user named like a group", pods(person("readers"), "list", "", ""), false},
		{"nobody", Attributes{Verb: "get", Resource: "pods"}, false},
		{"an administrator", Attributes{User: person("root", "system:masters"), Verb: "delete", Resource: "nodes"}, true},
		{"a control node", Attributes{User: person("c1", ServersGroup), Verb: "list", Resource: "pods"}, true},
	} {
		if got := c.may(test.request); got.Allowed != test.want {
			t.Errorf("%s: allowed %t (%s), want %t", test.name, got.Allowed, got.Reason(), test.want)
		}
	}
	for request, want := range map[*Attributes]string{
		{User: reader, Verb: "list", Resource: "pods"}:                        `RBAC: allowed by ClusterRoleBinding "a" of ClusterRole "reader" to Group "readers"`,
		{User: builder, Verb: "create", Resource: "pods", Namespace: "team"}:  `RBAC: allowed by RoleBinding "d/team" of Role "writer" to ServiceAccount "builder/team"`,
		{User: alice, Verb: "create", Resource: "pods", Namespace: "other"}:   `RBAC: role.rbac.authorization.k8s.io "writer" not found`,
		{User: person("nobody"), Verb: "get", Resource: "pods", Name: "mine"}: ``,
	} {
		if got := c.may(*request).Reason(); got != want {
			t.Errorf("%s by %s: reason %q, want %q", request.Verb, request.User.GetName(), got, want)
		}
	}
}

func TestRightsFollowWhatIsStored(t *testing.T) {
	c := newCluster(t)
	alice := Attributes{User: person("alice"), Verb: "get", Resource: "pods", Namespace: "team"}
	c.create(store.Roles, role("team", "reader", rule("get", "", "pods")))
	if c.may(alice).Allowed {
		t.Error("a role without a binding allows")
	}
	c.create(store.RoleBindings, binding("team", "b", ref("Role", "reader"), subject(rbacv1.UserKind, "", "alice")))
	if !c.may(alice).Allowed {
		t.Error("refused right after the binding was stored")
	}
	if _, err := c.store.Table(store.Roles).Update(t.Context(), role("team", "reader", rule("list", "", "pods")), 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the rule is gone", func() bool { return !c.may(alice).Allowed })
	alice.Verb = "list"
	if !c.may(alice).Allowed {
		t.Error("the new rule does not allow")
	}
	if _, err := c.store.Table(store.RoleBindings).Delete(t.Context(), "team", "b", 0, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the binding is gone", func() bool { return !c.may(alice).Allowed })
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for !is() {
		if t.Context().Err() != nil {
			t.Fatal(what)
		}
		time.Sleep(time.Millisecond)
	}
}

// What a replica allows goes on without asking anybody; what it refuses counts
// only once the leader has said that the replica is current, except for those
// without a name, of whom there can be any number.
func TestOnlyRefusalsAskTheLeader(t *testing.T) {
	c := newCluster(t)
	c.create(store.ClusterRoles, clusterRole("reader", rule("get", "", "pods")))
	c.create(store.ClusterRoleBindings, clusterBinding("b", "reader", subject(rbacv1.UserKind, "", "alice")))
	request := Attributes{User: person("alice"), Verb: "get", Resource: "pods"}
	c.may(request)
	before := c.log.Barriers()
	c.may(request)
	if got := c.log.Barriers() - before; got != 0 {
		t.Errorf("an allowed request asked the leader %d times, want none", got)
	}
	request.Verb = "delete"
	c.may(request)
	if got := c.log.Barriers() - before; got != 1 {
		t.Errorf("a refused request asked the leader %d times, want once", got)
	}
	request.User = Anonymous()
	c.may(request)
	if got := c.log.Barriers() - before; got != 1 {
		t.Errorf("a refused client without credentials had the leader asked, want not")
	}

	lost := errors.New("no quorum")
	c.log.Refuse(lost)
	defer c.log.Refuse(nil)
	request.User = person("alice")
	if decision, err := c.Authorize(t.Context(), request); decision.Allowed || !errors.Is(err, lost) {
		t.Errorf("without a quorum: %v, %v; want the log's error", decision, err)
	}
	request.Verb = "get"
	if !c.may(request).Allowed {
		t.Error("what is allowed is refused without a quorum")
	}
}

func TestRefusalsBeingConfirmedAreBounded(t *testing.T) {
	c := newCluster(t)
	for range refusalsMax {
		c.refusals <- struct{}{}
	}
	if _, err := c.Authorize(t.Context(), Attributes{User: person("alice"), Verb: "get", Resource: "pods"}); !errors.Is(err, ErrTooManyRefusals) {
		t.Errorf("one refusal more than the bound: %v, want %v", err, ErrTooManyRefusals)
	}
	if !c.may(Attributes{User: person("root", "system:masters"), Verb: "get", Resource: "pods"}).Allowed {
		t.Error("an administrator waits for others' refusals")
	}
}

// A certificate or a token may carry any number of groups, and bindings may refer
// to any number of roles that do not exist.
func TestManyGroupsAndManyBrokenBindings(t *testing.T) {
	c := newCluster(t)
	var groups []string
	for i := range 20_000 {
		groups = append(groups, fmt.Sprint("group-", i))
	}
	c.create(store.ClusterRoles, clusterRole("reader", rule("get", "", "pods")))
	c.create(store.ClusterRoleBindings, clusterBinding("b", "reader", subject(rbacv1.GroupKind, "", "group-19999")))
	for i := range 50 {
		c.create(store.RoleBindings, binding("team", fmt.Sprint("broken-", i), ref("Role", fmt.Sprint("none-", i)), subject(rbacv1.GroupKind, "", "group-7")))
	}
	request := Attributes{User: person("alice", groups...), Verb: "get", Resource: "pods", Namespace: "team"}
	if !c.may(request).Allowed {
		t.Error("the last of many groups is not looked at")
	}
	request.Verb = "list"
	if got := c.may(request).Reason(); len(got) > 2000 || !strings.Contains(got, "and 40 more") {
		t.Errorf("reason of %d bytes, want a summary: %.300s", len(got), got)
	}
}

func TestNobodyGrantsWhatTheyDoNotHave(t *testing.T) {
	c := newCluster(t)
	c.create(store.ClusterRoles, clusterRole("reader", rule("get,list", "", "pods")), clusterRole("admin", everything...))
	c.create(store.ClusterRoleBindings,
		clusterBinding("a", "reader", subject(rbacv1.UserKind, "", "alice")), clusterBinding("b", "admin", subject(rbacv1.UserKind, "", "bob")))
	alice, bob, root := person("alice", "dev"), person("bob"), person("root", "system:masters")
	ctx := t.Context()
	for _, u := range []user.Info{alice, bob, root} {
		if missing, err := c.MayGrant(ctx, u, "team", []rbacv1.PolicyRule{rule("get", "", "pods", "one")}); missing != nil || err != nil {
			t.Errorf("%s gives away what they have: %v, %v", u.GetName(), missing, err)
		}
	}
	missing, err := c.MayGrant(ctx, alice, "team", []rbacv1.PolicyRule{rule("get,delete,create", "", "pods"), rule("get", "", "secrets")})
	want := `user "alice" (groups=["dev"]) is attempting to grant RBAC permissions not currently held:` + "\n" +
		`{APIGroups:[""], Resources:["pods"], Verbs:["delete" "create"]}` + "\n" + `{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}`
	if err != nil || missing == nil || missing.Error() != want {
		t.Errorf("got  %v, %v\nwant %s", missing, err, want)
	}
	if missing, err := c.MayGrantEverything(ctx, bob); missing != nil || err != nil {
		t.Errorf("who has everything lacks %v, %v", missing, err)
	}
	if missing, err := c.MayGrantRole(ctx, alice, "", ref("ClusterRole", "admin")); missing == nil || err != nil {
		t.Errorf("alice gives the role of administrators: %v, %v", missing, err)
	}
	if _, err := c.MayGrantRole(ctx, bob, "", ref("ClusterRole", "none")); err == nil || !strings.Contains(err.Error(), `"none" not found`) {
		t.Errorf("a role that is not there: %v, want not found", err)
	}
}

func TestRulesForListsEachGrantOnce(t *testing.T) {
	c := newCluster(t)
	c.create(store.ClusterRoles, clusterRole("reader", rule("get", "", "pods")))
	c.create(store.ClusterRoleBindings, clusterBinding("a", "reader",
		subject(rbacv1.UserKind, "", "alice"), subject(rbacv1.GroupKind, "", "dev"), subject(rbacv1.UserKind, "", "system:node:n1")))
	alice := person("alice", "dev", "dev")
	c.may(Attributes{User: alice, Verb: "x", Resource: "y"}) // it has caught up then
	rules, complete, broken := c.RulesFor(alice, "team")
	if len(rules) != 1 || !complete || broken != nil {
		t.Errorf("rules %v, complete %t, broken %v; want one rule", rules, complete, broken)
	}
	if _, complete, broken = c.RulesFor(person("system:node:n1", "system:nodes"), "team"); complete || broken == nil {
		t.Errorf("a node: complete %t, broken %v; want what a node may do to be unknown", complete, broken)
	}
}

func TestImpersonationNeedsARightToEachPart(t *testing.T) {
	c := newCluster(t)
	c.create(store.ClusterRoles, clusterRole("actor",
		rule("impersonate", "", "users", "bob"), rule("impersonate", "", "groups", "dev"), rule("impersonate", "", "serviceaccounts", "robot"),
		rule("impersonate", "authentication.k8s.io", "uids", "u-1"), rule("impersonate", "authentication.k8s.io", "userextras/example.org/scope", "view")))
	c.create(store.ClusterRoleBindings, clusterBinding("a", "actor", subject(rbacv1.UserKind, "", "alice")))
	alice, root := person("alice", "system:authenticated"), person("root", "system:masters")
	for _, test := range []struct {
		name    string
		who     user.Info
		headers []string
		want    string // the user's name and groups, or what is forbidden
	}{
		{"nobody", alice, nil, "alice [system:authenticated]"},
		{"a user", alice, []string{"Impersonate-User", "bob"}, "bob [system:authenticated]"},
		{"a user and a group", alice, []string{"Impersonate-User", "bob", "Impersonate-Group", "dev"}, "bob [dev system:authenticated]"},
		{"another user", alice, []string{"Impersonate-User", "root"}, `cannot impersonate resource "users"`},
		{"another group", alice, []string{"Impersonate-User", "bob", "Impersonate-Group", "dev", "Impersonate-Group", "system:masters"}, `cannot impersonate resource "groups"`},
		{"a service account", alice, []string{"Impersonate-User", "system:serviceaccount:team:robot"}, "system:serviceaccount:team:robot [system:serviceaccounts system:serviceaccounts:team system:authenticated]"},
		{"another", alice, []string{"Impersonate-User", "system:serviceaccount:team:other"}, `cannot impersonate resource "serviceaccounts" in API group "" in the namespace "team"`},
		{"a uid", alice, []string{"Impersonate-User", "bob", "Impersonate-Uid", "u-1"}, "bob [system:authenticated]"},
		{"another uid", alice, []string{"Impersonate-User", "bob", "Impersonate-Uid", "u-2"}, `cannot impersonate resource "uids" in API group "authentication.k8s.io"`},
		{"extra", alice, []string{"Impersonate-User", "bob", "Impersonate-Extra-Example.org%2fscope", "view"}, "bob [system:authenticated]"},
		{"another value of extra", alice, []string{"Impersonate-User", "bob", "Impersonate-Extra-Example.org%2fscope", "edit"}, `cannot impersonate resource "userextras/example.org/scope"`},
		{"an administrator as anybody", root, []string{"Impersonate-User", "zoe", "Impersonate-Group", "a", "Impersonate-Group", "system:unauthenticated"}, "zoe [a system:unauthenticated]"},
		{"an administrator as nobody in particular", root, []string{"Impersonate-User", "system:anonymous"}, "system:anonymous [system:unauthenticated]"},
		{"a node", person("system:node:n1", "system:nodes"), []string{"Impersonate-User", "root"}, `cannot impersonate`},
		{"one without credentials", Anonymous(), []string{"Impersonate-User", "bob"}, `cannot impersonate`},
	} {
		got, err := c.Impersonate(t.Context(), test.who, request(t, test.headers...).Header)
		var forbidden *Forbidden
		switch {
		case errors.As(err, &forbidden):
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %v, want %s", test.name, err, test.want)
			}
		case err != nil:
			t.Errorf("%s: %v", test.name, err)
		case fmt.Sprintf("%s %v", got.GetName(), got.GetGroups()) != test.want:
			t.Errorf("%s: %s %v, want %s", test.name, got.GetName(), got.GetGroups(), test.want)
		}
	}
	as, err := c.Impersonate(t.Context(), root, request(t, "Impersonate-User", "bob", "Impersonate-Extra-Example.org%2fscope", "view", "Impersonate-Uid", "u-1").Header)
	if err != nil || as.GetUID() != "u-1" || !slices.Equal(as.GetExtra()["example.org/scope"], []string{"view"}) {
		t.Errorf("got %+v, %v; want the uid and extra", as, err)
	}
	for _, alone := range []string{"Impersonate-Group", "Impersonate-Uid", "Impersonate-Extra-A"} {
		if _, err := c.Impersonate(t.Context(), root, request(t, alone, "x").Header); !errors.Is(err, ErrIncompleteImpersonation) {
			t.Errorf("%s without a user: %v, want %v", alone, err, ErrIncompleteImpersonation)
		}
	}
}

// As many roles and bindings as upstream's policy and a hundred teams have.
func BenchmarkAuthorize(b *testing.B) {
	c := newCluster(b)
	for i := range 100 {
		ns := fmt.Sprint("team-", i)
		c.create(store.RoleBindings, binding(ns, "edit", ref("ClusterRole", "edit"), subject(rbacv1.GroupKind, "", ns)))
		c.create(store.ClusterRoleBindings, clusterBinding(ns, "view", subject(rbacv1.UserKind, "", ns)))
	}
	var rules []rbacv1.PolicyRule
	for i := range 40 {
		rules = append(rules, rule("get,list,watch", fmt.Sprint("group-", i), "a,b,c,d,e,f,g,h"))
	}
	c.create(store.ClusterRoles, clusterRole("edit", append(rules, rule("get,list,watch", "", "pods,services,configmaps,secrets"))...), clusterRole("view", rules...))
	request := Attributes{User: person("alice", "team-7", "team-8", "system:authenticated"), Verb: "watch", Resource: "secrets", Namespace: "team-7"}
	if !c.may(request).Allowed {
		b.Fatal("refused")
	}
	b.ReportAllocs()
	for b.Loop() {
		if !c.decide(&request).Allowed {
			b.Fatal("refused")
		}
	}
}
