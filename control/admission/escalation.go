package admission

import (
	"context"
	"errors"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/resource"
)

// escalation lets nobody give away rights that they do not have: who writes a
// role must have what is in it, or the verb escalate on it; who writes a binding
// must have what the role allows, or the verb bind on it. It looks at what would
// be stored, whoever changed it on the way here.
type escalation struct{ authorizer *auth.Authorizer }

func (escalation) Admit(context.Context, *resource.Attributes) error { return nil }

func (e escalation) Validate(ctx context.Context, a *resource.Attributes) error {
	if a.User == nil || a.Operation == resource.Delete || a.Kind.Spec.Resource.Group != rbacv1.GroupName {
		return nil
	}
	if a.Operation == resource.Update && onlyCollects(a.Object, a.OldObject) {
		return nil
	}
	switch obj := a.Object.(type) {
	case *rbacv1.Role:
		return e.role(ctx, a, obj.Rules, false)
	case *rbacv1.ClusterRole:
		old, _ := a.OldObject.(*rbacv1.ClusterRole)
		return e.role(ctx, a, obj.Rules, aggregates(obj) || aggregates(old))
	case *rbacv1.RoleBinding:
		return e.binding(ctx, a, obj.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return e.binding(ctx, a, obj.RoleRef)
	}
	return nil
}

func aggregates(role *rbacv1.ClusterRole) bool {
	return role != nil && role.AggregationRule != nil && len(role.AggregationRule.ClusterRoleSelectors) > 0
}

func (e escalation) role(ctx context.Context, a *resource.Attributes, rules []rbacv1.PolicyRule, aggregates bool) error {
	missing, err := e.authorizer.MayGrant(ctx, a.User, a.Namespace, rules)
	if err != nil {
		return err
	}
	if missing == nil && aggregates {
		// It can gather anything that anybody labels.
		if missing, err = e.authorizer.MayGrantEverything(ctx, a.User); err != nil {
			return err
		}
		if missing != nil {
			missing = errors.New("must have cluster-admin privileges to use the aggregationRule")
		}
	}
	if missing == nil {
		return nil
	}
	escalate := e.ask(a, "escalate", a.Kind.Spec.Resource.Resource, a.Name)
	if a.Operation == resource.Create {
		escalate.Name = "" // no right to a name reaches what is not there yet
	}
	return e.unless(ctx, escalate, a.Forbidden(missing))
}

func (e escalation) binding(ctx context.Context, a *resource.Attributes, ref rbacv1.RoleRef) error {
	missing, err := e.authorizer.MayGrantRole(ctx, a.User, a.Namespace, ref)
	switch {
	case missing == nil && err == nil:
		return nil
	case missing != nil:
		err = a.Forbidden(missing)
	}
	roles := "clusterroles"
	if ref.Kind == "Role" {
		roles = "roles"
	}
	return e.unless(ctx, e.ask(a, "bind", roles, ref.Name), err)
}

// ask is a request for a verb on a role.
func (escalation) ask(a *resource.Attributes, verb, roles, name string) auth.Attributes {
	return auth.Attributes{User: a.User, Verb: verb, Group: rbacv1.GroupName, Version: "*", Resource: roles, Namespace: a.Namespace, Name: name}
}

// unless answers refusal when request is not allowed.
func (e escalation) unless(ctx context.Context, request auth.Attributes, refusal error) error {
	decision, err := e.authorizer.Authorize(ctx, request)
	if err != nil {
		return err
	}
	if decision.Allowed {
		return nil
	}
	return refusal
}

// onlyCollects says that an update changes only what the garbage collector must
// be able to change, whose rights need not be those of all roles.
func onlyCollects(obj, old runtime.Object) bool {
	copied := obj.DeepCopyObject()
	now, err := meta.Accessor(copied)
	if err != nil {
		return false
	}
	before, err := meta.Accessor(old)
	if err != nil {
		return false
	}
	now.SetOwnerReferences(before.GetOwnerReferences())
	now.SetFinalizers(before.GetFinalizers())
	now.SetManagedFields(before.GetManagedFields())
	return equality.Semantic.DeepEqual(copied, old)
}
