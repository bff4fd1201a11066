package resource

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/auth/rbac/reconciliation"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

const (
	// rolesAtOnce is how many of the first roles are written at a time, so that
	// the log takes them in few entries.
	rolesAtOnce = 32
	// rolesTries bounds how often one is tried that somebody else writes as well.
	rolesTries = 5
)

// EnsureRoles gives the cluster upstream's roles and bindings, and those that are
// there the rules and subjects that they lack in this version. What an
// administrator added stays; what carries rbac.authorization.kubernetes.io/autoupdate:
// "false" is left alone. It writes nothing when nothing lacks, so a leader runs
// it at the start of each term, after EnsureBootstrap.
func EnsureRoles(ctx context.Context, r *Registry) error {
	if err := r.store.ReadBarrier(ctx); err != nil {
		return fmt.Errorf("bootstrap roles: %w", err)
	}
	policy := kube.Bootstrap()
	var roles []reconciliation.RuleOwner
	var bindings []reconciliation.RoleBinding
	for i := range policy.ClusterRoles {
		roles = append(roles, reconciliation.ClusterRoleRuleOwner{ClusterRole: &policy.ClusterRoles[i]})
	}
	for i := range policy.ClusterRoleBindings {
		bindings = append(bindings, reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &policy.ClusterRoleBindings[i]})
	}
	for namespace, in := range policy.Roles {
		for i := range in {
			in[i].Namespace = namespace
			roles = append(roles, reconciliation.RoleRuleOwner{Role: &in[i]})
		}
	}
	for namespace, in := range policy.RoleBindings {
		for i := range in {
			in[i].Namespace = namespace
			bindings = append(bindings, reconciliation.RoleBindingAdapter{RoleBinding: &in[i]})
		}
	}

	// Roles first: a binding to a role that is missing allows nothing.
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(rolesAtOnce)
	for _, role := range roles {
		group.Go(func() error {
			return ensureRole(role.GetName(), func() error {
				_, err := (&reconciliation.ReconcileRoleOptions{Confirm: true, Role: role, Client: roleWriter{groupCtx, r}}).Run()
				return err
			})
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	group, groupCtx = errgroup.WithContext(ctx)
	group.SetLimit(rolesAtOnce)
	for _, binding := range bindings {
		group.Go(func() error {
			return ensureRole(binding.GetName(), func() error {
				_, err := (&reconciliation.ReconcileRoleBindingOptions{Confirm: true, RoleBinding: binding, Client: bindingWriter{groupCtx, r}}).Run()
				return err
			})
		})
	}
	return group.Wait()
}

func ensureRole(name string, ensure func() error) (err error) {
	for range rolesTries {
		if err = ensure(); err == nil || !apierrors.IsConflict(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("bootstrap role or binding %s: %w", name, err)
	}
	return nil
}

// roleWriter and bindingWriter are what upstream's reconciliation reads and
// writes with.
type roleWriter struct {
	ctx      context.Context
	registry *Registry
}

func (w roleWriter) Get(namespace, name string) (reconciliation.RuleOwner, error) {
	if namespace == "" {
		role, err := read[*rbacv1.ClusterRole](w.ctx, w.registry, ClusterRoles, "", name)
		return reconciliation.ClusterRoleRuleOwner{ClusterRole: role}, err
	}
	role, err := read[*rbacv1.Role](w.ctx, w.registry, Roles, namespace, name)
	return reconciliation.RoleRuleOwner{Role: role}, err
}

func (w roleWriter) Create(in reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	return in, insertObject(w.ctx, w.registry, in.GetObject().(store.Object))
}

func (w roleWriter) Update(in reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	return in, replaceObject(w.ctx, w.registry, in.GetObject().(store.Object))
}

type bindingWriter struct {
	ctx      context.Context
	registry *Registry
}

func (w bindingWriter) Get(namespace, name string) (reconciliation.RoleBinding, error) {
	if namespace == "" {
		binding, err := read[*rbacv1.ClusterRoleBinding](w.ctx, w.registry, ClusterRoleBindings, "", name)
		return reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: binding}, err
	}
	binding, err := read[*rbacv1.RoleBinding](w.ctx, w.registry, RoleBindings, namespace, name)
	return reconciliation.RoleBindingAdapter{RoleBinding: binding}, err
}

func (w bindingWriter) Create(in reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	return in, insertObject(w.ctx, w.registry, in.GetObject().(store.Object))
}

func (w bindingWriter) Update(in reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	return in, replaceObject(w.ctx, w.registry, in.GetObject().(store.Object))
}

// Delete makes way for a binding of the same name to another role: an existing
// binding keeps its role.
func (w bindingWriter) Delete(namespace, name string, uid types.UID) error {
	kind := RoleBindings
	if namespace == "" {
		kind = ClusterRoleBindings
	}
	_, _, err := w.registry.Delete(w.ctx, kind, namespace, name, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	return err
}

func read[T store.Object](ctx context.Context, r *Registry, kind *Kind, namespace, name string) (T, error) {
	obj, err := store.Of[T](r.store, kind.Spec).Get(ctx, namespace, name)
	return obj, kind.apiError(err, name)
}

// rbacKind finds the kind of a role or binding by its type.
func rbacKind(obj store.Object) *Kind {
	switch obj.(type) {
	case *rbacv1.ClusterRole:
		return ClusterRoles
	case *rbacv1.Role:
		return Roles
	case *rbacv1.ClusterRoleBinding:
		return ClusterRoleBindings
	}
	return RoleBindings
}

func insertObject(ctx context.Context, r *Registry, obj store.Object) error {
	// A copy: reconciliation may come again with what it gave.
	_, err := r.Create(ctx, rbacKind(obj), obj.GetNamespace(), obj.DeepCopyObject().(store.Object), CreateOptions{})
	return err
}

func replaceObject(ctx context.Context, r *Registry, obj store.Object) error {
	_, _, err := r.Update(ctx, rbacKind(obj), obj.GetNamespace(), obj.GetName(), "", func(store.Object) (store.Object, error) {
		return obj.DeepCopyObject().(store.Object), nil
	}, UpdateOptions{})
	return err
}
