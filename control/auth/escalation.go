package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/musterhq/muster/control/kube"
)

// everything is what only who may do all things has.
var everything = []rbacv1.PolicyRule{
	{Verbs: []string{rbacv1.VerbAll}, APIGroups: []string{rbacv1.APIGroupAll}, Resources: []string{rbacv1.ResourceAll}},
	{Verbs: []string{rbacv1.VerbAll}, NonResourceURLs: []string{rbacv1.NonResourceAll}},
}

// RulesFor lists what u may do in a namespace by rules. complete is false for
// users whose rights do not come from rules alone; broken says why some rules
// could not be found.
func (a *Authorizer) RulesFor(u user.Info, namespace string) (rules []rbacv1.PolicyRule, complete bool, broken error) {
	seen := map[[2]string]bool{}
	errs := a.rules.visit(u, namespace, func(g grant, found []rbacv1.PolicyRule) bool {
		if id := [2]string{g.kind, g.name}; !seen[id] {
			seen[id] = true
			rules = append(rules, found...)
		}
		return true
	})
	complete = true
	if inGroup(u, ServersGroup) {
		rules = append(rules, everything...)
	}
	if _, ok := NodeName(u); ok {
		complete = false
		errs = append([]error{errors.New("node authorizer does not support user rule resolution")}, errs...)
	}
	if len(errs) > 0 {
		broken = errors.New(summary(errs))
	}
	return rules, complete, broken
}

// MayGrant says whether u may give rules to somebody in a namespace: only who has
// rights may pass them on. missing tells, in upstream's words, which u has not;
// err that it could not be found out.
func (a *Authorizer) MayGrant(ctx context.Context, u user.Info, namespace string, rules []rbacv1.PolicyRule) (missing, err error) {
	return a.mayGrant(ctx, u, namespace, func() ([]rbacv1.PolicyRule, error) { return rules, nil })
}

// MayGrantEverything is MayGrant for all rights that there are.
func (a *Authorizer) MayGrantEverything(ctx context.Context, u user.Info) (missing, err error) {
	return a.MayGrant(ctx, u, "", everything)
}

// MayGrantRole is MayGrant for the rules of the role that a binding in namespace
// refers to. That there is no such role is an err.
func (a *Authorizer) MayGrantRole(ctx context.Context, u user.Info, namespace string, ref rbacv1.RoleRef) (missing, err error) {
	return a.mayGrant(ctx, u, namespace, func() ([]rbacv1.PolicyRule, error) { return a.rules.rulesOf(ref, namespace) })
}

// mayGrant looks twice, like Authorize: rights, and the role that is given, may
// have been made a moment ago through another node.
func (a *Authorizer) mayGrant(ctx context.Context, u user.Info, namespace string, given func() ([]rbacv1.PolicyRule, error)) (missing, err error) {
	if privileged(u) {
		return nil, nil
	}
	look := func() (missing, err error) {
		rules, err := given()
		if err != nil {
			return nil, err
		}
		return a.lacks(u, namespace, rules), nil
	}
	if missing, err = look(); missing == nil && err == nil {
		return nil, nil
	}
	if err := a.becomeCurrent(ctx); err != nil {
		return nil, err
	}
	return look()
}

// lacks says what of rules u does not have.
func (a *Authorizer) lacks(u user.Info, namespace string, rules []rbacv1.PolicyRule) error {
	own, _, broken := a.RulesFor(u, namespace)
	covered, missing := validation.Covers(own, rules)
	if covered {
		return nil
	}
	lines := make([]string, 0, len(missing))
	for _, rule := range compact(missing) {
		lines = append(lines, kube.RuleString(rule))
	}
	slices.Sort(lines)
	text := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.GetName(), u.GetGroups(), strings.Join(slices.Compact(lines), "\n"))
	if broken != nil {
		text += fmt.Sprintf("; resolution errors: [%v]", broken)
	}
	return errors.New(text)
}

// compact joins rules that differ in their verbs alone. Covers reports each verb
// of each resource by itself.
func compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	type one struct{ group, resource, name string }
	var out []rbacv1.PolicyRule
	at := map[one]int{}
	for _, rule := range rules {
		if len(rule.APIGroups) != 1 || len(rule.Resources) != 1 || len(rule.ResourceNames) > 1 || len(rule.NonResourceURLs) > 0 {
			out = append(out, rule)
			continue
		}
		id := one{rule.APIGroups[0], rule.Resources[0], strings.Join(rule.ResourceNames, "")}
		if i, ok := at[id]; ok {
			out[i].Verbs = append(out[i].Verbs, rule.Verbs...)
			continue
		}
		at[id] = len(out)
		out = append(out, *rule.DeepCopy())
	}
	return out
}
