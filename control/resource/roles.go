package resource

import (
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// rbacKinds are rbac.authorization.k8s.io. That nobody gives rights which they
// do not have themselves is package admission's business.
var rbacKinds = []*Kind{ClusterRoleBindings, ClusterRoles, RoleBindings, Roles}

// Roles are rules for one namespace.
var Roles = &Kind{
	Spec:     store.Roles,
	Singular: "role",
	Strategy: strategy(store.Roles, "", Rules[*rbacv1.Role]{
		Validate:       kube.ValidateRole,
		ValidateUpdate: kube.ValidateRoleUpdate,
		CreateOnUpdate: true,
	}),
}

// ClusterRoles are rules for all namespaces, what is in none, and paths. Those
// with an aggregation rule are put together by a controller.
var ClusterRoles = &Kind{
	Spec:     store.ClusterRoles,
	Singular: "clusterrole",
	Strategy: strategy(store.ClusterRoles, "", Rules[*rbacv1.ClusterRole]{
		Validate:       kube.ValidateClusterRole,
		ValidateUpdate: kube.ValidateClusterRoleUpdate,
		CreateOnUpdate: true,
	}),
}

// RoleBindings give a role, or a cluster role within one namespace. Which role
// never changes: who gave it out was asked about that one.
var RoleBindings = &Kind{
	Spec:     store.RoleBindings,
	Singular: "rolebinding",
	Strategy: strategy(store.RoleBindings, "", Rules[*rbacv1.RoleBinding]{
		Validate:       kube.ValidateRoleBinding,
		ValidateUpdate: kube.ValidateRoleBindingUpdate,
		CreateOnUpdate: true,
	}),
}

// ClusterRoleBindings give a cluster role everywhere.
var ClusterRoleBindings = &Kind{
	Spec:     store.ClusterRoleBindings,
	Singular: "clusterrolebinding",
	Strategy: strategy(store.ClusterRoleBindings, "", Rules[*rbacv1.ClusterRoleBinding]{
		Validate:       kube.ValidateClusterRoleBinding,
		ValidateUpdate: kube.ValidateClusterRoleBindingUpdate,
		CreateOnUpdate: true,
	}),
}
