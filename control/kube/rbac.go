package kube

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/rbac"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	rbacv1helpers "k8s.io/kubernetes/pkg/apis/rbac/v1"
	"k8s.io/kubernetes/pkg/apis/rbac/validation"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

// Upstream's rules for rbac.authorization.k8s.io, as they are.
var (
	ValidateRole                     = onCreate[*rbacv1.Role](validation.ValidateRole)
	ValidateRoleUpdate               = onUpdate[*rbacv1.Role](validation.ValidateRoleUpdate)
	ValidateRoleBinding              = onCreate[*rbacv1.RoleBinding](validation.ValidateRoleBinding)
	ValidateRoleBindingUpdate        = onUpdate[*rbacv1.RoleBinding](validation.ValidateRoleBindingUpdate)
	ValidateClusterRoleBinding       = onCreate[*rbacv1.ClusterRoleBinding](validation.ValidateClusterRoleBinding)
	ValidateClusterRoleBindingUpdate = onUpdate[*rbacv1.ClusterRoleBinding](validation.ValidateClusterRoleBindingUpdate)
)

// ValidateClusterRole says what is wrong with a new cluster role.
func ValidateClusterRole(_ context.Context, role *rbacv1.ClusterRole) field.ErrorList {
	return validation.ValidateClusterRole(internal[*rbac.ClusterRole](role), validation.ClusterRoleValidationOptions{})
}

// ValidateClusterRoleUpdate says what of role must not differ from old so. A
// selector that was stored invalid may stay.
func ValidateClusterRoleUpdate(_ context.Context, role, old *rbacv1.ClusterRole) field.ErrorList {
	return validation.ValidateClusterRoleUpdate(internal[*rbac.ClusterRole](role), internal[*rbac.ClusterRole](old),
		validation.ClusterRoleValidationOptions{AllowInvalidLabelValueInSelector: selectsInvalidly(old)})
}

func selectsInvalidly(role *rbacv1.ClusterRole) bool {
	if role.AggregationRule == nil {
		return false
	}
	for i := range role.AggregationRule.ClusterRoleSelectors {
		if len(metav1validation.ValidateLabelSelector(&role.AggregationRule.ClusterRoleSelectors[i], metav1validation.LabelSelectorValidationOptions{}, nil)) > 0 {
			return true
		}
	}
	return false
}

// RuleString is how upstream writes a rule in a message.
func RuleString(rule rbacv1.PolicyRule) string { return rbacv1helpers.CompactString(rule) }

// BootstrapPolicy are the roles and bindings that every Kubernetes cluster has.
type BootstrapPolicy struct {
	ClusterRoles        []rbacv1.ClusterRole
	ClusterRoleBindings []rbacv1.ClusterRoleBinding
	Roles               map[string][]rbacv1.Role // by namespace
	RoleBindings        map[string][]rbacv1.RoleBinding
}

// Bootstrap is upstream's policy of this version.
func Bootstrap() BootstrapPolicy {
	return BootstrapPolicy{
		ClusterRoles:        append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...),
		ClusterRoleBindings: append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...),
		Roles:               bootstrappolicy.NamespaceRoles(),
		RoleBindings:        bootstrappolicy.NamespaceRoleBindings(),
	}
}

// NodeRules are what every node may do, where it does not depend on which node
// it is.
func NodeRules() []rbacv1.PolicyRule { return bootstrappolicy.NodeRules() }
