// Package policy holds writes against the expressions (CEL) of users'
// ValidatingAdmissionPolicies, and changes objects as their
// MutatingAdmissionPolicies say. What a request looks like to a policy is
// package hook's business.
//
// Matching, evaluation and the words of refusals are upstream's dispatchers; here
// is where they get policies, parameters and namespaces from: the replica.
package policy

import (
	"context"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission/plugin/policy/generic"
	"k8s.io/apiserver/pkg/admission/plugin/policy/matching"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/musterhq/muster/control/admission/hook"
	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/store"
)

// Policies are all that are bound to something.
type Policies struct {
	objects    hook.Objects
	mutating   family[*mutating.Policy, *mutating.PolicyBinding, mutating.PolicyEvaluator]
	validating family[*validating.Policy, *validating.PolicyBinding, validating.Validator]
}

// Config is what policies need of the cluster.
type Config struct {
	Store   *store.Store
	Objects hook.Objects
	// Kinds are those that parameters may be of.
	Kinds hook.Kinds
	// Authorizer answers what expressions ask about users.
	Authorizer authorizer.UnconditionalAuthorizer
}

// New reads policies from the store with each request.
func New(cfg Config) *Policies {
	matcher := matching.NewMatcher(namespaces{hook.Namespaces{Store: cfg.Store}}, nil)
	params := &parameters{store: cfg.Store, kinds: cfg.Kinds}
	return &Policies{
		objects: cfg.Objects,
		mutating: family[*mutating.Policy, *mutating.PolicyBinding, mutating.PolicyEvaluator]{
			hooks: bound(cfg.Store, compileMutating,
				func(p *mutating.Policy) *admissionregistrationv1.ParamKind { return p.Spec.ParamKind },
				func(b *mutating.PolicyBinding) string { return b.Spec.PolicyName },
				store.MutatingAdmissionPolicies, store.MutatingAdmissionPolicyBindings),
			params:     params,
			dispatcher: mutating.NewDispatcher(cfg.Authorizer, matcher, types{}),
		},
		validating: family[*validating.Policy, *validating.PolicyBinding, validating.Validator]{
			hooks: bound(cfg.Store, compileValidating,
				func(p *validating.Policy) *admissionregistrationv1.ParamKind { return p.Spec.ParamKind },
				func(b *validating.PolicyBinding) string { return b.Spec.PolicyName },
				store.ValidatingAdmissionPolicies, store.ValidatingAdmissionPolicyBindings),
			params:     params,
			dispatcher: validating.NewDispatcher(cfg.Authorizer, generic.NewPolicyMatcher(matcher)),
		},
	}
}

// Mutating says whether there are policies that may change objects.
func (p *Policies) Mutating() (bool, error) { return p.mutating.any() }

// Validating says whether there are policies that look at objects.
func (p *Policies) Validating() (bool, error) { return p.validating.any() }

// Admit changes the request's object as mutating policies say. There is nothing
// to change in a delete. What they made of it must still be an object that the
// rules, which come next, can look at.
func (p *Policies) Admit(ctx context.Context, r *hook.Request) error {
	if r.GetObject() == nil {
		return nil
	}
	if err := p.mutating.dispatch(ctx, r, p.objects); err != nil {
		return err
	}
	if err := kube.Normalize(r.GetObject()); err != nil {
		return apierrors.NewInternalError(fmt.Errorf("after mutating admission policies: %w", err))
	}
	return nil
}

// Validate holds the request against validating policies.
func (p *Policies) Validate(ctx context.Context, r *hook.Request) error {
	return p.validating.dispatch(ctx, r, p.objects)
}
