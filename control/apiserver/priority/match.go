package priority

import (
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/musterhq/muster/control/auth"
)

// matches says whether a schema is for a request: one of its rules is for the user
// and for what is asked.
func matches(spec *flowcontrolv1.FlowSchemaSpec, request *auth.Attributes) bool {
	for i := range spec.Rules {
		rule := &spec.Rules[i]
		if !slices.ContainsFunc(rule.Subjects, func(s flowcontrolv1.Subject) bool { return isFor(&s, request.User) }) {
			continue
		}
		if request.Resource == "" {
			if slices.ContainsFunc(rule.NonResourceRules, func(r flowcontrolv1.NonResourcePolicyRule) bool { return onPath(&r, request) }) {
				return true
			}
		} else if slices.ContainsFunc(rule.ResourceRules, func(r flowcontrolv1.ResourcePolicyRule) bool { return onResource(&r, request) }) {
			return true
		}
	}
	return false
}

func isFor(subject *flowcontrolv1.Subject, u user.Info) bool {
	switch {
	case u == nil:
		return false
	case subject.User != nil && subject.Kind == flowcontrolv1.SubjectKindUser:
		return subject.User.Name == flowcontrolv1.NameAll || subject.User.Name == u.GetName()
	case subject.Group != nil && subject.Kind == flowcontrolv1.SubjectKindGroup:
		return subject.Group.Name == flowcontrolv1.NameAll || slices.Contains(u.GetGroups(), subject.Group.Name)
	case subject.ServiceAccount != nil && subject.Kind == flowcontrolv1.SubjectKindServiceAccount:
		account := subject.ServiceAccount
		if account.Name == flowcontrolv1.NameAll {
			return strings.HasPrefix(u.GetName(), serviceaccount.ServiceAccountUsernamePrefix+account.Namespace+serviceaccount.ServiceAccountUsernameSeparator)
		}
		return serviceaccount.MatchesUsername(account.Namespace, account.Name, u.GetName())
	}
	return false
}

func onResource(rule *flowcontrolv1.ResourcePolicyRule, request *auth.Attributes) bool {
	if !has(rule.Verbs, request.Verb) || !has(rule.APIGroups, request.Group) {
		return false
	}
	resource := request.Resource
	if request.Subresource != "" {
		resource += "/" + request.Subresource
	}
	if !has(rule.Resources, resource) {
		return false
	}
	if request.Namespace == "" {
		return rule.ClusterScope
	}
	return has(rule.Namespaces, request.Namespace)
}

func onPath(rule *flowcontrolv1.NonResourcePolicyRule, request *auth.Attributes) bool {
	if !has(rule.Verbs, request.Verb) {
		return false
	}
	return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool {
		// With a star or without, it stands for what is below as well.
		below := strings.TrimSuffix(strings.TrimSuffix(pattern, "*"), "/") + "/"
		return pattern == flowcontrolv1.NonResourceAll || pattern == request.Path || strings.HasPrefix(request.Path, below)
	})
}

func has(list []string, value string) bool {
	return slices.Contains(list, value) || slices.Contains(list, "*")
}
