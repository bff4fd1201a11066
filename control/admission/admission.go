// Package admission holds writes against the rest of the cluster: whether the
// namespace takes new content, what pods get that do not say, what nodes must
// leave alone, and that nobody gives away rights that they do not have. It
// implements resource.Admission. Who may send a request at all was decided before, in
// package auth; whether an object is valid in itself is package resource's
// business.
package admission

import (
	"context"
	"time"

	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/musterhq/muster/control/admission/hook"
	"github.com/musterhq/muster/control/admission/policy"
	"github.com/musterhq/muster/control/admission/webhook"
	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// Settings are the cluster's choices.
type Settings struct {
	// NotReadyToleration and UnreachableToleration are how long a pod that does
	// not say stays on a node that is not ready, or not heard of, before it is
	// replaced. 0 stands for the default; whole seconds count.
	NotReadyToleration, UnreachableToleration time.Duration
	// Services connects with webhooks that run as services; nil: with none.
	Services webhook.Services
	// Kinds are those that are served now; nil: those built in.
	Kinds hook.Kinds
	// Rights says who may give away which. Nil: privileged users alone may write
	// roles and bindings.
	Rights *auth.Authorizer
	// Rehearsing charges quotas for dry runs, too: they are stored.
	Rehearsing bool
	// Authorizer answers what the conditions of hooks ask about users; nil: Rights.
	Authorizer authorizer.UnconditionalAuthorizer
}

// Both replace Kubernetes' five minutes.
const (
	// DefaultUnreachableToleration is short: both signals of the node's life are
	// lost by then, and what is waited for is a short interruption.
	DefaultUnreachableToleration = 2 * time.Second
	// DefaultNotReadyToleration is for a node that is heard, and says that its
	// runtime does not answer. That is being started again, after a boot for
	// some seconds, and the containers go on without it: as long as kubelet
	// bears with a silent runtime.
	DefaultNotReadyToleration = 30 * time.Second
)

// New is the chain of all checks, in their order. s is read, never written.
func New(s *store.Store, settings Settings) resource.Admission {
	if settings.Rights == nil {
		settings.Rights = auth.NewAuthorizer(s)
	}
	if settings.Authorizer == nil {
		settings.Authorizer = settings.Rights.Upstream()
	}
	if settings.Kinds == nil {
		settings.Kinds = resource.Builtin
	}
	objects := hook.NewObjects(settings.Kinds)
	policies := policy.New(policy.Config{Store: s, Objects: objects, Kinds: settings.Kinds, Authorizer: settings.Authorizer})
	webhooks := webhook.New(webhook.Config{Store: s, Objects: objects, Services: settings.Services, Authorizer: settings.Authorizer})
	return &chain{
		checks: []resource.Admission{
			&namespaceLifecycle{store: s},
			newLimitRanger(s),
			&serviceAccount{store: s},
			nodeRestriction{s, settings.Rights},
			escalation{settings.Rights},
			newPodSecurity(s),
			newPodPriority(s),
			newDefaultTolerations(settings),
			newStorageClass(s),
			storageProtection{},
			newRuntimeClass(s),
			certificates{settings.Authorizer},
			deviceClaims{s, settings.Rights},
			newIngressClass(s),
			podResize{s},
			hookParams{s, settings.Kinds, settings.Authorizer},
		},
		mutators:   []mutator{policies, webhooks},
		validators: []validator{policies, webhooks},
		last:       newResourceQuota(s, settings.Rehearsing),
	}
}

// mutating is for checks that have nothing to say once the object is final.
type mutating struct{}

func (mutating) Validate(context.Context, *resource.Attributes) error { return nil }
