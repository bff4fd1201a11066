package policy

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiserver/pkg/admission/plugin/policy/generic"

	"github.com/musterhq/muster/control/admission/hook"
	"github.com/musterhq/muster/control/store"
)

// family is all policies of one kind, which compile to E.
type family[P, B store.Object, E any] struct {
	hooks      *hook.Configured[[]binding[P, B, E]]
	params     *parameters
	dispatcher generic.Dispatcher[generic.PolicyHook[P, B, E]]
}

// binding is a policy that is compiled, and where it applies.
type binding[P, B store.Object, E any] struct {
	policy    P
	bindings  []B
	paramKind *admissionregistrationv1.ParamKind
	evaluator E
}

// bound lists the policies that have bindings, by name. One that has not
// changed is not compiled again.
func bound[P, B store.Object, E any](s *store.Store, compile func(P) E, paramKind func(P) *admissionregistrationv1.ParamKind,
	policyOf func(B) string, policies, bindings *store.Spec,
) *hook.Configured[[]binding[P, B, E]] {
	return hook.NewConfigured(s, func(objects [][]store.Object, before []binding[P, B, E]) ([]binding[P, B, E], error) {
		compiled := map[string]binding[P, B, E]{}
		for _, b := range before {
			compiled[b.policy.GetName()] = b
		}
		byPolicy := map[string][]B{}
		for _, obj := range objects[1] {
			b := obj.(B)
			byPolicy[policyOf(b)] = append(byPolicy[policyOf(b)], b)
		}
		var all []binding[P, B, E]
		for _, obj := range objects[0] {
			p := obj.(P)
			of := byPolicy[p.GetName()]
			if len(of) == 0 {
				continue
			}
			now, ok := compiled[p.GetName()]
			if !ok || now.policy.GetResourceVersion() != p.GetResourceVersion() {
				now = binding[P, B, E]{policy: p, paramKind: paramKind(p), evaluator: compile(p)}
			}
			now.bindings = of
			all = append(all, now)
		}
		return all, nil
	}, policies, bindings)
}

func (f *family[P, B, E]) any() (bool, error) {
	hooks, err := f.hooks.Now()
	return len(hooks) > 0, err
}

// dispatch asks the policies. The kind of a policy's parameters is looked up for
// each request: it may be a custom one that has come since.
func (f *family[P, B, E]) dispatch(ctx context.Context, r *hook.Request, objects hook.Objects) error {
	all, err := f.hooks.Now()
	if err != nil {
		return err
	}
	hooks := make([]generic.PolicyHook[P, B, E], len(all))
	for i, b := range all {
		hooks[i] = generic.PolicyHook[P, B, E]{Policy: b.policy, Bindings: b.bindings, Evaluator: b.evaluator}
		if b.paramKind != nil {
			hooks[i].ParamInformer, hooks[i].ParamScope, hooks[i].ConfigurationError = f.params.of(ctx, b.paramKind)
		}
	}
	return f.dispatcher.Dispatch(ctx, r, objects, hooks)
}
