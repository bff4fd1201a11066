package auth

import (
	"context"

	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Upstream is the authorizer as upstream's libraries ask it: the conditions of
// hooks do. Selectors of labels are not looked at.
func (a *Authorizer) Upstream() authorizer.UnconditionalAuthorizer {
	return authorizer.AuthorizerFunc(func(ctx context.Context, asked authorizer.Attributes) (authorizer.Decision, string, error) {
		request := Attributes{
			User: asked.GetUser(), Verb: asked.GetVerb(), Group: asked.GetAPIGroup(), Version: asked.GetAPIVersion(),
			Resource: asked.GetResource(), Subresource: asked.GetSubresource(),
			Namespace: asked.GetNamespace(), Name: asked.GetName(), Path: asked.GetPath(),
		}
		decision, err := a.Authorize(ctx, request)
		switch {
		case err != nil:
			return authorizer.DecisionDeny, "", err
		case decision.Allowed:
			return authorizer.DecisionAllow, decision.Reason(), nil
		}
		return authorizer.DecisionNoOpinion, decision.Reason(), nil
	})
}
