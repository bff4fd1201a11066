package priority

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/musterhq/muster/control/apiserver/flow"
	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func as(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: groups}
}

func about(u user.Info, verb, group, resource, namespace string) auth.Attributes {
	return auth.Attributes{User: u, Verb: verb, Group: group, Resource: resource, Namespace: namespace}
}

func everything() flowcontrolv1.PolicyRulesWithSubjects {
	return flowcontrolv1.PolicyRulesWithSubjects{
		Subjects:         []flowcontrolv1.Subject{{Kind: "User", User: &flowcontrolv1.UserSubject{Name: "*"}}},
		ResourceRules:    []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}, ClusterScope: true, Namespaces: []string{"*"}}},
		NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}},
	}
}

func TestSchemasAreForWhatTheySay(t *testing.T) {
	ann, robot := as("ann", "staff"), as("system:serviceaccount:team:robot", "system:serviceaccounts")
	path := func(u user.Info, p string) auth.Attributes { return auth.Attributes{User: u, Verb: "get", Path: p} }
	only := func(change func(*flowcontrolv1.PolicyRulesWithSubjects)) flowcontrolv1.PolicyRulesWithSubjects {
		rule := everything()
		change(&rule)
		return rule
	}
	subject := func(s flowcontrolv1.Subject) flowcontrolv1.PolicyRulesWithSubjects {
		return only(func(r *flowcontrolv1.PolicyRulesWithSubjects) { r.Subjects = []flowcontrolv1.Subject{s} })
	}
	account := func(namespace, name string) flowcontrolv1.PolicyRulesWithSubjects {
		return subject(flowcontrolv1.Subject{Kind: "ServiceAccount", ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: namespace, Name: name}})
	}
	pods := only(func(r *flowcontrolv1.PolicyRulesWithSubjects) {
		r.ResourceRules[0] = flowcontrolv1.ResourcePolicyRule{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"pods", "pods/status"}, Namespaces: []string{"team"}}
	})
	health := only(func(r *flowcontrolv1.PolicyRulesWithSubjects) {
		r.NonResourceRules[0].NonResourceURLs = []string{"/healthz", "/openapi/*"}
	})
	status := about(ann, "get", "", "pods", "team")
	status.Subresource = "status"
	logs := status
	logs.Subresource = "log"
	for _, c := range []struct {
		name    string
		rule    flowcontrolv1.PolicyRulesWithSubjects
		request auth.Attributes
		want    bool
	}{
		{"everybody", everything(), about(ann, "get", "apps", "deployments", "a"), true},
		{"a user", subject(flowcontrolv1.Subject{Kind: "User", User: &flowcontrolv1.UserSubject{Name: "ann"}}), path(ann, "/version"), true},
		{"another user", subject(flowcontrolv1.Subject{Kind: "User", User: &flowcontrolv1.UserSubject{Name: "bob"}}), path(ann, "/version"), false},
		{"a group", subject(flowcontrolv1.Subject{Kind: "Group", Group: &flowcontrolv1.GroupSubject{Name: "staff"}}), path(ann, "/version"), true},
		{"another group", subject(flowcontrolv1.Subject{Kind: "Group", Group: &flowcontrolv1.GroupSubject{Name: "staff"}}), path(robot, "/version"), false},
		{"an account", account("team", "robot"), path(robot, "/version"), true},
		{"any of a namespace", account("team", "*"), path(robot, "/version"), true},
		{"any of a namespace that begins alike", account("te", "*"), path(robot, "/version"), false},
		{"another account", account("team", "other"), path(robot, "/version"), false},
		{"no subjects", only(func(r *flowcontrolv1.PolicyRulesWithSubjects) { r.Subjects = nil }), path(ann, "/version"), false},
		{"pods there", pods, about(ann, "list", "", "pods", "team"), true},
		{"their status", pods, status, true},
		{"their logs", pods, logs, false},
		{"pods elsewhere", pods, about(ann, "list", "", "pods", "other"), false},
		{"pods everywhere", pods, about(ann, "list", "", "pods", ""), false},
		{"another verb", pods, about(ann, "watch", "", "pods", "team"), false},
		{"another group's pods", pods, about(ann, "list", "metrics.k8s.io", "pods", "team"), false},
		{"a path", health, path(ann, "/healthz"), true},
		{"below it", health, path(ann, "/healthz/ping"), true},
		{"below one with a star", health, path(ann, "/openapi/v3/api"), true},
		{"that begins alike", health, path(ann, "/healthzz"), false},
	} {
		if got := matches(&flowcontrolv1.FlowSchemaSpec{Rules: []flowcontrolv1.PolicyRulesWithSubjects{c.rule}}, &c.request); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}

// cluster is a store with levels and schemas that are changed while requests run.
type cluster struct {
	*Levels
	t     *testing.T
	store *store.Store
	seats map[string]int
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{t: t, store: storetest.New(t)}
	c.Levels = New(Config{Store: c.store, Seats: 10, Wait: time.Second, Changed: func(seats map[string]int) { c.seats = seats }, Logger: slog.New(slog.DiscardHandler)})
	return c
}

func (c *cluster) put(spec *store.Spec, obj store.Object) {
	c.t.Helper()
	obj.SetUID(types.UID(obj.GetName() + "-uid"))
	table := c.store.Table(spec)
	_, err := table.Update(c.t.Context(), obj, 0)
	if errors.Is(err, store.ErrNotFound) {
		_, err = table.Create(c.t.Context(), obj)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) schema(name, level string, precedence int32, change ...func(*flowcontrolv1.FlowSchemaSpec)) {
	c.t.Helper()
	s := &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level}, MatchingPrecedence: precedence,
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{everything()},
	}}
	for _, f := range change {
		f(&s.Spec)
	}
	c.put(store.FlowSchemas, s)
}

func (c *cluster) limited(name string, shares int32, response flowcontrolv1.LimitResponse) {
	c.t.Helper()
	c.put(store.PriorityLevelConfigurations, &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &shares, LimitResponse: response},
	}})
}

func (c *cluster) enter(u user.Info) (Class, func(), error) {
	request := about(u, "get", "", "pods", "default")
	class := c.Of(&request)
	leave, err := class.Enter(context.Background())
	return class, leave, err
}

var (
	rejects = flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}
	queues  = flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeQueue, Queuing: &flowcontrolv1.QueuingConfiguration{Queues: 1, HandSize: 1, QueueLengthLimit: 1}}
)

func TestLevelsHaveTheirShares(t *testing.T) {
	c := newCluster(t)
	ann := as("ann")
	if class, _, err := c.enter(ann); err != nil || class.Level != "" || class.Exempt() {
		t.Errorf("without any configuration: %+v, %v, want no level and no waiting", class, err)
	}
	c.put(store.PriorityLevelConfigurations, &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "exempt"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementExempt, Exempt: &flowcontrolv1.ExemptPriorityLevelConfiguration{},
	}})
	c.limited("few", 10, rejects)
	c.limited("many", 30, queues)
	c.schema("dangling", "gone", 1)
	c.schema("rest", "few", 100)
	c.schema("admins", "exempt", 10, func(s *flowcontrolv1.FlowSchemaSpec) {
		s.Rules[0].Subjects = []flowcontrolv1.Subject{{Kind: "Group", Group: &flowcontrolv1.GroupSubject{Name: "admins"}}}
	})
	if class, _, err := c.enter(as("root", "admins")); err != nil || !class.Exempt() || class.SchemaUID != "admins-uid" || class.LevelUID != "exempt-uid" {
		t.Errorf("an administrator: %+v, %v, want them exempt", class, err)
	}
	var leaves []func()
	for range 3 { // 10 seats, a quarter of the shares
		class, leave, err := c.enter(ann)
		if err != nil || class.Level != "few" || class.SchemaUID != "rest-uid" {
			t.Fatalf("%+v, %v, want a seat in few", class, err)
		}
		leaves = append(leaves, leave)
	}
	if c.seats["few"] != 3 || c.seats["many"] != 8 || len(c.seats) != 2 {
		t.Errorf("told of seats %v, want few 3 and many 8", c.seats)
	}
	if _, _, err := c.enter(as("bob")); !errors.Is(err, flow.ErrFull) {
		t.Errorf("the fourth at once: %v, want it refused", err)
	}
	// Another schema changes nothing about who runs; another level begins anew.
	c.schema("late", "many", 200)
	if _, _, err := c.enter(ann); !errors.Is(err, flow.ErrFull) {
		t.Errorf("after another schema: %v, want what runs to be remembered", err)
	}
	leaves[0]()
	if _, leave, err := c.enter(ann); err != nil {
		t.Errorf("after one left: %v", err)
	} else {
		leave()
	}
	c.schema("rest", "many", 100)
	if class, leave, err := c.enter(ann); err != nil || class.Level != "many" {
		t.Errorf("after the schema moved: %+v, %v, want many", class, err)
	} else {
		leave()
	}
	for _, leave := range leaves[1:] {
		leave()
	}
}

func TestFlowsAreToldApart(t *testing.T) {
	c := newCluster(t)
	c.limited("l", 1, queues)
	of := func(u user.Info, namespace string) string {
		request := about(u, "get", "", "pods", namespace)
		class := c.Of(&request)
		return class.flow
	}
	distinguish := func(by flowcontrolv1.FlowDistinguisherMethodType) func(*flowcontrolv1.FlowSchemaSpec) {
		return func(s *flowcontrolv1.FlowSchemaSpec) {
			s.DistinguisherMethod = &flowcontrolv1.FlowDistinguisherMethod{Type: by}
		}
	}
	c.schema("s", "l", 1)
	if of(as("ann"), "a") != of(as("bob"), "b") {
		t.Error("told apart without a method")
	}
	c.schema("s", "l", 1, distinguish(flowcontrolv1.FlowDistinguisherMethodByUserType))
	if of(as("ann"), "a") == of(as("bob"), "a") || of(as("ann"), "a") != of(as("ann"), "b") {
		t.Error("want users told apart, and nothing else")
	}
	c.schema("s", "l", 1, distinguish(flowcontrolv1.FlowDistinguisherMethodByNamespaceType))
	if of(as("ann"), "a") != of(as("bob"), "a") || of(as("ann"), "a") == of(as("ann"), "b") {
		t.Error("want namespaces told apart, and nothing else")
	}
}

// What each request pays, with the default configuration's number of schemas.
func BenchmarkOf(b *testing.B) {
	c := &cluster{store: storetest.New(b)}
	c.Levels = New(Config{Store: c.store, Seats: 1200, Wait: time.Second, Logger: slog.New(slog.DiscardHandler)})
	shares := int32(10)
	if _, err := c.store.Table(store.PriorityLevelConfigurations).Create(b.Context(), &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "l"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{NominalConcurrencyShares: &shares, LimitResponse: queues},
	}}); err != nil {
		b.Fatal(err)
	}
	for i := range 12 {
		rule := everything()
		rule.Subjects = []flowcontrolv1.Subject{{Kind: "Group", Group: &flowcontrolv1.GroupSubject{Name: "system:" + string(rune('a'+i))}}}
		if i == 7 {
			rule.Subjects[0].Group.Name = "system:serviceaccounts"
		}
		if _, err := c.store.Table(store.FlowSchemas).Create(b.Context(), &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: string(rune('a' + i))}, Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "l"}, MatchingPrecedence: int32(i + 1), Rules: []flowcontrolv1.PolicyRulesWithSubjects{rule},
			DistinguisherMethod: &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
		}}); err != nil {
			b.Fatal(err)
		}
	}
	for name, who := range map[string]user.Info{
		"eighth": as("system:serviceaccount:team:robot", "system:serviceaccounts", "system:serviceaccounts:team", "system:authenticated"),
		"first":  as("root", "system:a", "system:authenticated"),
	} {
		b.Run(name, func(b *testing.B) {
			request := about(who, "get", "", "pods", "default")
			b.ReportAllocs()
			for b.Loop() {
				class := c.Of(&request)
				leave, err := class.Enter(b.Context())
				if err != nil {
					b.Fatal(err)
				}
				leave()
			}
		})
	}
}
