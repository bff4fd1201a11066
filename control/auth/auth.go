// Package auth says who sends a request and what they may do. A person or a
// node is known by a client certificate of the cluster's CA or by a bearer
// token. What they may do is decided in the order privileged groups, Node
// (a node and what its own pods need), RBAC, each from this node's replica.
// Reading requests and answering them is left to the API server.
package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/fields"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/musterhq/muster/control/store"
)

// Groups that mean something here beside user.SystemPrivilegedGroup
// (system:masters) and user.NodesGroup (system:nodes).
const (
	// ServersGroup is what control nodes' own certificates carry.
	ServersGroup = "muster:servers"

	nodeUserPrefix = "system:node:"
)

var (
	// ErrUncertain means that this replica would refuse a request, and that the
	// leader did not say in time whether the replica is current.
	ErrUncertain = errors.New("no answer from the leader, and this node's rules may be old")
	// ErrTooManyRefusals means that so many requests are about to be refused that
	// this one is not looked at closely enough to be one of them.
	ErrTooManyRefusals = errors.New("too many requests are being refused")
)

const (
	// refusalsMax bounds the refusals that are being confirmed at once. What is
	// allowed never waits, so only those without rights hinder one another.
	refusalsMax = 256
	// refusalTimeout is how long a refusal waits for the leader's word.
	refusalTimeout = 1500 * time.Millisecond
)

// Attributes are what a request wants to do. Resource is empty for a request
// that is about no API object; Path then says what it is about.
type Attributes struct {
	User        user.Info
	Verb        string
	Group       string
	Version     string
	Resource    string
	Subresource string
	Namespace   string
	Name        string
	// Fields is the field selector of a list, watch or deletecollection.
	Fields fields.Selector
	Path   string
}

// Authorizer decides what an authenticated user may do.
type Authorizer struct {
	store    *store.Store
	rules    *rules
	nodes    *nodes
	refusals chan struct{}
	patience time.Duration
}

// NewAuthorizer returns the cluster's authorizer over what s holds. Until Run
// runs, it knows no roles.
func NewAuthorizer(s *store.Store) *Authorizer {
	return &Authorizer{store: s, rules: newRules(s), nodes: newNodes(s), refusals: make(chan struct{}, refusalsMax), patience: refusalTimeout}
}

// Run follows roles and bindings until ctx ends.
func (a *Authorizer) Run(ctx context.Context) error { return a.rules.Run(ctx) }

// Synced are closed once the roles and bindings of this replica are known.
func (a *Authorizer) Synced() []<-chan struct{} {
	r := a.rules
	return []<-chan struct{}{r.roles.Synced(), r.clusterRoles.Synced(), r.bindings.Synced(), r.clusterBindings.Synced()}
}

// Decision is whether a request may go on.
type Decision struct {
	Allowed bool
	reason  string
	grant   *grant
	user    user.Info
}

// Reason says why, as far as there is a reason. That of a refusal goes to the
// client; ForbiddenMessage builds upstream's words around it.
func (d Decision) Reason() string {
	if d.grant != nil {
		return "RBAC: allowed by " + d.grant.describe(d.user)
	}
	return d.reason
}

// Authorize decides. Replicas lag: rights that were given a moment ago through
// another control node may not be known here. What this replica allows goes on
// at once; what it refuses is looked at again once the leader has confirmed that
// the replica is current. An error says that this could not be done, and that
// the request must not go on. Rights that were taken away are known here after
// the time that replication takes.
//
// A client without credentials is refused at once: it costs its sender nothing,
// and must not cost the leader anything.
func (a *Authorizer) Authorize(ctx context.Context, request Attributes) (Decision, error) {
	decision := a.decide(&request)
	if decision.Allowed || request.User == nil || request.User.GetName() == user.Anonymous {
		return decision, nil
	}
	if err := a.becomeCurrent(ctx); err != nil {
		return Decision{}, err
	}
	return a.decide(&request), nil
}

// becomeCurrent returns once everything acknowledged before the call is known here.
func (a *Authorizer) becomeCurrent(ctx context.Context) error {
	select {
	case a.refusals <- struct{}{}:
		defer func() { <-a.refusals }()
	default:
		return ErrTooManyRefusals
	}
	waiting, cancel := context.WithTimeout(ctx, a.patience)
	defer cancel()
	err := a.store.ReadBarrier(waiting)
	if err == nil {
		err = a.rules.reach(waiting, a.store.Revision())
	}
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", ErrUncertain, err)
	}
	return err
}

// decide asks each authorizer in turn, from memory.
func (a *Authorizer) decide(request *Attributes) Decision {
	if request.User == nil {
		return Decision{}
	}
	if privileged(request.User) {
		return Decision{Allowed: true}
	}
	var reasons []string
	if node, ok := NodeName(request.User); ok {
		allowed, reason := a.nodes.authorize(node, request)
		if allowed {
			return Decision{Allowed: true, reason: reason}
		}
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	decision := Decision{user: request.User}
	broken := a.rules.visit(request.User, request.Namespace, func(g grant, rules []rbacv1.PolicyRule) bool {
		for i := range rules {
			if matches(&rules[i], request) {
				decision.Allowed, decision.grant = true, &g
				return false
			}
		}
		return true
	})
	if decision.Allowed {
		return decision
	}
	if len(broken) > 0 {
		reasons = append(reasons, "RBAC: "+summary(broken))
	}
	decision.reason = strings.Join(reasons, "\n")
	return decision
}

// privileged users may do everything, whatever roles there are: they are how an
// administrator gets back in, and the control nodes themselves.
func privileged(u user.Info) bool {
	return inGroup(u, user.SystemPrivilegedGroup) || inGroup(u, ServersGroup)
}

func inGroup(u user.Info, name string) bool {
	for _, group := range u.GetGroups() {
		if group == name {
			return true
		}
	}
	return false
}

// summary tells what is broken, in so many words that an answer stays an answer:
// whoever may write bindings could refer to any number of roles that do not exist.
func summary(errs []error) string {
	const most = 10
	if len(errs) <= most {
		return utilerrors.NewAggregate(errs).Error()
	}
	return fmt.Sprintf("%v and %d more", utilerrors.NewAggregate(errs[:most]), len(errs)-most)
}

// NodeName is the node that a user is, if it is one: upstream's convention of a
// common name system:node:NAME in the group system:nodes. One without the other
// is nobody.
func NodeName(u user.Info) (string, bool) {
	name, ok := strings.CutPrefix(u.GetName(), nodeUserPrefix)
	if !ok || name == "" || !inGroup(u, user.NodesGroup) {
		return "", false
	}
	return name, true
}

// IsPublic says that a path is answered to anybody, without credentials and
// whatever roles there are: health and version tell load balancers and people
// what is there, and nothing else.
func IsPublic(path string) bool {
	switch path {
	case "/version", "/version/", "/healthz", "/livez", "/readyz":
		return true
	}
	for _, root := range []string{"/healthz/", "/livez/", "/readyz/"} {
		if strings.HasPrefix(path, root) {
			return true
		}
	}
	return false
}

// ForbiddenMessage is what upstream tells a user who may not do something.
func ForbiddenMessage(request Attributes, reason string) string {
	var name string
	if request.User != nil {
		name = request.User.GetName()
	}
	if reason != "" {
		reason = ": " + reason
	}
	if request.Resource == "" {
		return fmt.Sprintf("User %q cannot %s path %q%s", name, request.Verb, request.Path, reason)
	}
	resource := request.Resource
	if request.Subresource != "" {
		resource += "/" + request.Subresource
	}
	where := "at the cluster scope"
	if request.Namespace != "" {
		where = fmt.Sprintf("in the namespace %q", request.Namespace)
	}
	return fmt.Sprintf("User %q cannot %s resource %q in API group %q %s%s", name, request.Verb, resource, request.Group, where, reason)
}
