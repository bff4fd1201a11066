package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/musterhq/muster/control/store"
)

// rules are what roles and their bindings allow, as this node's replica has
// them: decoded when they change, found by who they are for. A decision looks
// at the bindings of the user and of each of their groups, and at no others.
type rules struct {
	store           *store.Store
	roles           *store.Cache[*rbacv1.Role]
	clusterRoles    *store.Cache[*rbacv1.ClusterRole]
	bindings        *store.Cache[*rbacv1.RoleBinding]
	clusterBindings *store.Cache[*rbacv1.ClusterRoleBinding]
}

// Indexes of bindings: the names of users and groups, for those in a namespace
// after its name and a slash.
const (
	byUser  = "user"
	byGroup = "group"
)

func newRules(s *store.Store) *rules {
	return &rules{
		store:        s,
		roles:        store.NewCache[*rbacv1.Role](s, store.Roles, nil),
		clusterRoles: store.NewCache[*rbacv1.ClusterRole](s, store.ClusterRoles, nil),
		bindings: store.NewCache(s, store.RoleBindings, map[string]func(*rbacv1.RoleBinding) []string{
			byUser:  func(b *rbacv1.RoleBinding) []string { return subjects(b.Subjects, rbacv1.UserKind, b.Namespace) },
			byGroup: func(b *rbacv1.RoleBinding) []string { return subjects(b.Subjects, rbacv1.GroupKind, b.Namespace) },
		}),
		clusterBindings: store.NewCache(s, store.ClusterRoleBindings, map[string]func(*rbacv1.ClusterRoleBinding) []string{
			byUser:  func(b *rbacv1.ClusterRoleBinding) []string { return subjects(b.Subjects, rbacv1.UserKind, "") },
			byGroup: func(b *rbacv1.ClusterRoleBinding) []string { return subjects(b.Subjects, rbacv1.GroupKind, "") },
		}),
	}
}

// subjects are the index entries of a binding in namespace. A service account is
// the user of its name.
func subjects(all []rbacv1.Subject, kind, namespace string) []string {
	prefix := ""
	if namespace != "" {
		prefix = namespace + "/"
	}
	var names []string
	for i := range all {
		name, ok := all[i].Name, all[i].Kind == kind
		if kind == rbacv1.UserKind && all[i].Kind == rbacv1.ServiceAccountKind {
			name, ok = serviceAccount(&all[i], namespace)
		}
		if ok {
			names = append(names, prefix+name)
		}
	}
	return names
}

// serviceAccount is the user that a subject stands for. A binding in a namespace
// means its own unless it says otherwise.
func serviceAccount(subject *rbacv1.Subject, namespace string) (string, bool) {
	if subject.Namespace != "" {
		namespace = subject.Namespace
	}
	return serviceaccount.MakeUsername(namespace, subject.Name), namespace != ""
}

// Run follows roles and bindings until ctx ends.
func (r *rules) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.roles.Run(ctx) })
	g.Go(func() error { return r.clusterRoles.Run(ctx) })
	g.Go(func() error { return r.bindings.Run(ctx) })
	g.Go(func() error { return r.clusterBindings.Run(ctx) })
	return g.Wait()
}

// reach returns once all that this replica had applied at revision is seen here.
func (r *rules) reach(ctx context.Context, revision uint64) error {
	return errors.Join(
		r.roles.WaitRevision(ctx, revision), r.clusterRoles.WaitRevision(ctx, revision),
		r.bindings.WaitRevision(ctx, revision), r.clusterBindings.WaitRevision(ctx, revision))
}

// grant is a binding that gives somebody rights.
type grant struct {
	kind, namespace, name string
	ref                   rbacv1.RoleRef
	subjects              []rbacv1.Subject
}

// visit calls see with every grant for a user in a namespace ("": in the whole
// cluster) and its rules, until see returns false. A grant that reaches the user in
// several ways may be seen several times. broken says which roles are missing.
func (r *rules) visit(u user.Info, namespace string, see func(grant, []rbacv1.PolicyRule) bool) (broken []error) {
	groups := u.GetGroups()
	for i := -1; i < len(groups); i++ {
		index, name := byUser, u.GetName()
		if i >= 0 {
			index, name = byGroup, groups[i]
		}
		for _, b := range r.clusterBindings.ByIndex(index, name) {
			found, err := r.rulesOf(b.RoleRef, "")
			if err != nil {
				broken = append(broken, err)
			} else if !see(grant{"ClusterRoleBinding", "", b.Name, b.RoleRef, b.Subjects}, found) {
				return nil
			}
		}
		if namespace == "" {
			continue
		}
		for _, b := range r.bindings.ByIndex(index, namespace+"/"+name) {
			found, err := r.rulesOf(b.RoleRef, namespace)
			if err != nil {
				broken = append(broken, err)
			} else if !see(grant{"RoleBinding", namespace, b.Name, b.RoleRef, b.Subjects}, found) {
				return nil
			}
		}
	}
	return broken
}

// rulesOf are the rules of the role that a binding in namespace refers to. The
// error is worded as upstream's.
func (r *rules) rulesOf(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "Role":
		if role, ok := r.roles.Get(namespace, ref.Name); ok && namespace != "" {
			return role.Rules, nil
		}
		return nil, apierrors.NewNotFound(rbacv1.Resource("role"), ref.Name)
	case "ClusterRole":
		if role, ok := r.clusterRoles.Get("", ref.Name); ok {
			return role.Rules, nil
		}
		return nil, apierrors.NewNotFound(rbacv1.Resource("clusterrole"), ref.Name)
	}
	return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
}

// describe says, in upstream's words, how u comes to a grant.
func (g grant) describe(u user.Info) string {
	name := g.name
	if g.namespace != "" {
		name += "/" + g.namespace
	}
	for i := range g.subjects {
		s := &g.subjects[i]
		if !isSubject(s, u, g.namespace) {
			continue
		}
		who := s.Name
		if s.Kind == rbacv1.ServiceAccountKind {
			in := s.Namespace
			if in == "" {
				in = g.namespace
			}
			who += "/" + in
		}
		return fmt.Sprintf("%s %q of %s %q to %s %q", g.kind, name, g.ref.Kind, g.ref.Name, s.Kind, who)
	}
	return fmt.Sprintf("%s %q of %s %q", g.kind, name, g.ref.Kind, g.ref.Name)
}

func isSubject(s *rbacv1.Subject, u user.Info, namespace string) bool {
	switch s.Kind {
	case rbacv1.UserKind:
		return s.Name == u.GetName()
	case rbacv1.GroupKind:
		return inGroup(u, s.Name)
	case rbacv1.ServiceAccountKind:
		name, ok := serviceAccount(s, namespace)
		return ok && name == u.GetName()
	}
	return false
}

// matches says whether a rule allows what a request wants.
func matches(rule *rbacv1.PolicyRule, request *Attributes) bool {
	if !has(rule.Verbs, rbacv1.VerbAll, request.Verb) {
		return false
	}
	if request.Resource == "" {
		return matchesPath(rule, request.Path)
	}
	return has(rule.APIGroups, rbacv1.APIGroupAll, request.Group) &&
		matchesResource(rule, request.Resource, request.Subresource) &&
		(len(rule.ResourceNames) == 0 || has(rule.ResourceNames, request.Name, request.Name))
}

func has(list []string, all, one string) bool {
	for _, s := range list {
		if s == all || s == one {
			return true
		}
	}
	return false
}

// matchesResource: "pods" is the resource alone, "pods/log" a subresource,
// "*/scale" one of every resource, "*" everything.
func matchesResource(rule *rbacv1.PolicyRule, resource, subresource string) bool {
	for _, r := range rule.Resources {
		if r == rbacv1.ResourceAll {
			return true
		}
		if subresource == "" {
			if r == resource {
				return true
			}
			continue
		}
		if before, after, ok := strings.Cut(r, "/"); ok && after == subresource && (before == resource || before == "*") {
			return true
		}
	}
	return false
}

// matchesPath: a star at the end stands for any rest.
func matchesPath(rule *rbacv1.PolicyRule, path string) bool {
	for _, url := range rule.NonResourceURLs {
		if url == rbacv1.NonResourceAll || url == path ||
			strings.HasSuffix(url, "*") && strings.HasPrefix(path, strings.TrimRight(url, "*")) {
			return true
		}
	}
	return false
}
