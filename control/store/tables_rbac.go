package store

import rbacv1 "k8s.io/api/rbac/v1"

// Roles say what may be done, bindings to whom that is given.
var (
	Roles               = spec[*rbacv1.Role](rbacv1.SchemeGroupVersion, "roles", "Role", true, &rbacv1.Role{}, &rbacv1.RoleList{}, nil)
	RoleBindings        = spec[*rbacv1.RoleBinding](rbacv1.SchemeGroupVersion, "rolebindings", "RoleBinding", true, &rbacv1.RoleBinding{}, &rbacv1.RoleBindingList{}, nil)
	ClusterRoles        = spec[*rbacv1.ClusterRole](rbacv1.SchemeGroupVersion, "clusterroles", "ClusterRole", false, &rbacv1.ClusterRole{}, &rbacv1.ClusterRoleList{}, nil)
	ClusterRoleBindings = spec[*rbacv1.ClusterRoleBinding](rbacv1.SchemeGroupVersion, "clusterrolebindings", "ClusterRoleBinding", false, &rbacv1.ClusterRoleBinding{}, &rbacv1.ClusterRoleBindingList{}, nil)
)

var rbacSpecs = []*Spec{ClusterRoleBindings, ClusterRoles, RoleBindings, Roles}
