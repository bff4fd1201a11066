package policy

import (
	"fmt"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
)

// The compilers of upstream's plugins are their own; these do the same. An
// expression that does not compile is an error when it is evaluated.

// environments are made when there is a policy: a cluster without any does
// without their memory.
var environments = sync.OnceValue(func() *environment.EnvSet {
	return environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
})

func compileValidating(p *admissionregistrationv1.ValidatingAdmissionPolicy) validating.Validator {
	compiler, err := cel.NewCompositedCompiler(environments())
	if err != nil {
		return validating.NewValidator(nil, nil, nil, nil, p.Spec.FailurePolicy, err)
	}
	all := cel.OptionalVariableDeclarations{HasParams: p.Spec.ParamKind != nil, HasAuthorizer: true}
	messages := cel.OptionalVariableDeclarations{HasParams: p.Spec.ParamKind != nil}
	compiler.CompileAndStoreVariables(variables(p.Spec.Variables), all, environment.StoredExpressions)

	validations := make([]cel.ExpressionAccessor, len(p.Spec.Validations))
	expressions := make([]cel.ExpressionAccessor, len(p.Spec.Validations))
	for i, v := range p.Spec.Validations {
		validations[i] = &validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason}
		if v.MessageExpression != "" {
			expressions[i] = &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression}
		}
	}
	annotations := make([]cel.ExpressionAccessor, len(p.Spec.AuditAnnotations))
	for i, a := range p.Spec.AuditAnnotations {
		annotations[i] = &validating.AuditAnnotationCondition{Key: a.Key, ValueExpression: a.ValueExpression}
	}
	return validating.NewValidator(
		compiler.CompileCondition(validations, all, environment.StoredExpressions),
		conditions(compiler, p.Name, p.Spec.MatchConditions, p.Spec.FailurePolicy, all),
		compiler.CompileCondition(annotations, all, environment.StoredExpressions),
		compiler.CompileCondition(expressions, messages, environment.StoredExpressions),
		p.Spec.FailurePolicy,
		nil,
	)
}

func compileMutating(p *admissionregistrationv1.MutatingAdmissionPolicy) mutating.PolicyEvaluator {
	compiler, err := cel.NewCompositedCompiler(environments())
	if err != nil {
		return mutating.PolicyEvaluator{Error: &apiservercel.Error{
			Type: apiservercel.ErrorTypeInternal, Detail: fmt.Sprintf("failed to initialize CEL compiler: %v", err),
		}}
	}
	all := cel.OptionalVariableDeclarations{HasParams: p.Spec.ParamKind != nil, HasAuthorizer: true}
	compiler.CompileAndStoreVariables(variables(p.Spec.Variables), all, environment.StoredExpressions)
	evaluator := mutating.PolicyEvaluator{
		Matcher:            conditions(compiler, p.Name, p.Spec.MatchConditions, p.Spec.FailurePolicy, all),
		CompositedCompiler: compiler,
	}
	all.HasPatchTypes = true
	for _, m := range p.Spec.Mutations {
		switch {
		case m.PatchType == admissionregistrationv1.PatchTypeJSONPatch && m.JSONPatch != nil:
			evaluator.Mutators = append(evaluator.Mutators, patch.NewJSONPatcher(
				compiler.CompileMutatingEvaluator(&patch.JSONPatchCondition{Expression: m.JSONPatch.Expression}, all, environment.StoredExpressions)))
		case m.PatchType == admissionregistrationv1.PatchTypeApplyConfiguration && m.ApplyConfiguration != nil:
			evaluator.Mutators = append(evaluator.Mutators, patch.NewApplyConfigurationPatcher(
				compiler.CompileMutatingEvaluator(&patch.ApplyConfigurationCondition{Expression: m.ApplyConfiguration.Expression}, all, environment.StoredExpressions)))
		}
	}
	return evaluator
}

func variables(from []admissionregistrationv1.Variable) []cel.NamedExpressionAccessor {
	all := make([]cel.NamedExpressionAccessor, len(from))
	for i, v := range from {
		all[i] = &validating.Variable{Name: v.Name, Expression: v.Expression}
	}
	return all
}

// conditions is nil for a policy without any, which upstream takes for a match.
func conditions(compiler *cel.CompositedCompiler, name string, from []admissionregistrationv1.MatchCondition,
	failure *admissionregistrationv1.FailurePolicyType, declared cel.OptionalVariableDeclarations,
) matchconditions.Matcher {
	if len(from) == 0 {
		return nil
	}
	all := make([]cel.ExpressionAccessor, len(from))
	for i := range from {
		all[i] = (*matchconditions.MatchCondition)(&from[i])
	}
	return matchconditions.NewMatcher(compiler.CompileCondition(all, declared, environment.StoredExpressions), failure, "policy", "validate", name)
}
