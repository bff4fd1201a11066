// Package webhook asks servers of users' own about writes, as their
// MutatingWebhookConfigurations and ValidatingWebhookConfigurations say. What a
// request looks like to a hook is package hook's business.
//
// Selectors, conditions, the messages to and fro and the answers are upstream's
// own; here is when a webhook is called, what its failure means, and how its
// server is found.
package webhook

import (
	"context"
	"fmt"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	admissionmetrics "k8s.io/apiserver/pkg/admission/metrics"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	upstream "k8s.io/apiserver/pkg/admission/plugin/webhook"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/generic"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/object"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/rules"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/musterhq/muster/control/admission/hook"
	"github.com/musterhq/muster/control/store"
)

// accessors are webhooks in the order in which they are asked: configurations by
// name, and within each as written.
type accessors []upstream.WebhookAccessor

// Webhooks are all that are configured.
type Webhooks struct {
	mutating, validating *hook.Configured[accessors]

	objects    hook.Objects
	namespaces hook.Namespaces
	authorizer authorizer.UnconditionalAuthorizer
	conditions func() cel.ConditionCompiler
	caller     *caller
}

// Config is what webhooks need of the cluster.
type Config struct {
	Store   *store.Store
	Objects hook.Objects
	// Services connects with the server of a service.
	Services Services
	// Authorizer answers what conditions ask about users.
	Authorizer authorizer.UnconditionalAuthorizer
}

// New reads configurations from the store with each request.
func New(cfg Config) *Webhooks {
	return &Webhooks{
		mutating: hook.NewConfigured(cfg.Store, func(objects [][]store.Object, _ accessors) (accessors, error) {
			return arrange(objects[0], func(c *admissionregistrationv1.MutatingWebhookConfiguration) []upstream.WebhookAccessor {
				return access(c.Name, c.Webhooks, func(w *admissionregistrationv1.MutatingWebhook) string { return w.Name }, upstream.NewMutatingWebhookAccessor)
			}), nil
		}, store.MutatingWebhookConfigurations),
		validating: hook.NewConfigured(cfg.Store, func(objects [][]store.Object, _ accessors) (accessors, error) {
			return arrange(objects[0], func(c *admissionregistrationv1.ValidatingWebhookConfiguration) []upstream.WebhookAccessor {
				return access(c.Name, c.Webhooks, func(w *admissionregistrationv1.ValidatingWebhook) string { return w.Name }, upstream.NewValidatingWebhookAccessor)
			}), nil
		}, store.ValidatingWebhookConfigurations),
		objects:    cfg.Objects,
		namespaces: hook.Namespaces{Store: cfg.Store},
		authorizer: cfg.Authorizer,
		// A cluster without conditions does without the compiler's memory.
		conditions: sync.OnceValue(func() cel.ConditionCompiler {
			return cel.NewConditionCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
		}),
		caller: newCaller(cfg.Services),
	}
}

// arrange lists the webhooks of configurations. All are made anew whenever one
// changes: their conditions are compiled when they are first asked, which takes
// less time than a call.
func arrange[C store.Object](configurations []store.Object, of func(C) []upstream.WebhookAccessor) accessors {
	var all accessors
	for _, c := range configurations {
		all = append(all, of(c.(C))...)
	}
	return all
}

// access numbers the webhooks of a configuration whose names are the same.
func access[W any](configuration string, webhooks []W, name func(*W) string, of func(uid, configuration string, w *W) upstream.WebhookAccessor) []upstream.WebhookAccessor {
	var all []upstream.WebhookAccessor
	seen := map[string]int{}
	for i := range webhooks {
		w := &webhooks[i]
		all = append(all, of(fmt.Sprintf("%s/%s/%d", configuration, name(w), seen[name(w)]), configuration, w))
		seen[name(w)]++
	}
	return all
}

// Mutating says whether there are webhooks that may change objects.
func (w *Webhooks) Mutating() (bool, error) {
	hooks, err := w.mutating.Now()
	return len(hooks) > 0, err
}

// Validating says whether there are webhooks that look at objects.
func (w *Webhooks) Validating() (bool, error) {
	hooks, err := w.validating.Now()
	return len(hooks) > 0, err
}

// versions shows a request's objects in the version that a webhook asks for.
type versions interface {
	VersionedAttribute(kind schema.GroupVersionKind) (*admission.VersionedAttributes, error)
}

// concerns says as what a webhook is to be told of a request; nil: not at all.
// a is the request as it is after the webhooks before this one. An unexpected
// error counts only if the webhook would be called.
func (w *Webhooks) concerns(ctx context.Context, h upstream.WebhookAccessor, a admission.Attributes, v versions) (*generic.WebhookInvocation, *apierrors.StatusError) {
	selected, namespaceErr := w.inNamespace(ctx, h, a)
	if !selected && namespaceErr == nil {
		return nil, nil
	}
	selected, objectErr := (&object.Matcher{}).MatchObjectSelector(h, a)
	if !selected && objectErr == nil {
		return nil, nil
	}
	invocation, err := w.matched(h, a)
	switch {
	case invocation == nil, err != nil:
		return nil, err
	case namespaceErr != nil:
		return nil, namespaceErr
	case objectErr != nil:
		return nil, objectErr
	case len(h.GetMatchConditions()) == 0:
		return invocation, nil
	}
	shown, e := v.VersionedAttribute(invocation.Kind)
	if e != nil {
		return nil, apierrors.NewInternalError(e)
	}
	result := h.GetCompiledMatcher(w.conditions()).Match(ctx, shown, nil, w.authorizer)
	if result.Error != nil {
		return nil, apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), result.Error)
	}
	if !result.Matches {
		admissionmetrics.Metrics.ObserveMatchConditionExclusion(ctx, h.GetName(), "webhook", h.GetType(), string(a.GetOperation()))
		return nil, nil
	}
	return invocation, nil
}

func (w *Webhooks) inNamespace(ctx context.Context, h upstream.WebhookAccessor, a admission.Attributes) (bool, *apierrors.StatusError) {
	selector, err := h.GetParsedNamespaceSelector()
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	return w.namespaces.Selected(ctx, selector, a)
}

// matched finds the rule that a request fits, as it is or as another version of
// the same resource.
func (w *Webhooks) matched(h upstream.WebhookAccessor, a admission.Attributes) (*generic.WebhookInvocation, *apierrors.StatusError) {
	for _, rule := range h.GetRules() {
		if m := (rules.Matcher{Rule: rule, Attr: a}); m.Matches() {
			return &generic.WebhookInvocation{Webhook: h, Resource: a.GetResource(), Subresource: a.GetSubresource(), Kind: a.GetKind()}, nil
		}
	}
	if policy := h.GetMatchPolicy(); policy == nil || *policy != admissionregistrationv1.Equivalent {
		return nil, nil
	}
	mapper := w.objects.GetEquivalentResourceMapper()
	for _, rule := range h.GetRules() {
		for _, resource := range mapper.EquivalentResourcesFor(a.GetResource(), a.GetSubresource()) {
			if resource == a.GetResource() {
				continue
			}
			if m := (rules.Matcher{Rule: rule, Attr: as{a, resource}}); !m.Matches() {
				continue
			}
			kind := mapper.KindFor(resource, a.GetSubresource())
			if kind.Empty() {
				return nil, apierrors.NewInternalError(fmt.Errorf("unable to convert to %v: unknown kind", resource))
			}
			return &generic.WebhookInvocation{Webhook: h, Resource: resource, Subresource: a.GetSubresource(), Kind: kind}, nil
		}
	}
	return nil, nil
}

// as is a request about another version of its resource.
type as struct {
	admission.Attributes
	resource schema.GroupVersionResource
}

func (a as) GetResource() schema.GroupVersionResource { return a.resource }
