package webhook

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	admissionmetrics "k8s.io/apiserver/pkg/admission/metrics"
	upstream "k8s.io/apiserver/pkg/admission/plugin/webhook"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/generic"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"

	"github.com/musterhq/muster/control/admission/hook"
)

// auditValidatingFailed is upstream's key for a webhook that failed and was
// ignored.
const auditValidatingFailed = "failed-open.validating.webhook.admission.k8s.io/"

// Validate asks all validating webhooks that the request concerns at once. The
// first in order that objects is the answer.
func (w *Webhooks) Validate(ctx context.Context, r *hook.Request) error {
	hooks, err := w.validating.Now()
	if err != nil {
		return err
	}
	v := &each{request: r, objects: w.objects, shown: map[schema.GroupVersionKind]*admission.VersionedAttributes{}}
	var calls []*generic.WebhookInvocation
	for _, h := range hooks {
		invocation, refused := w.concerns(ctx, h, r, v)
		if refused != nil {
			return refused
		}
		if invocation == nil {
			continue
		}
		if _, err := v.VersionedAttribute(invocation.Kind); err != nil {
			return apierrors.NewInternalError(err)
		}
		calls = append(calls, invocation)
	}
	if len(calls) > 0 && ctx.Err() != nil {
		return errTimeout()
	}
	errs := make([]error, len(calls))
	var all sync.WaitGroup
	for i, invocation := range calls {
		all.Go(func() {
			h, shown := invocation.Webhook, v.shown[invocation.Kind]
			start := time.Now()
			_, err := w.caller.call(ctx, invocation, false, shown)
			observe(ctx, "validating", h, shown.Attributes, time.Since(start), err)
			errs[i] = outcome(ctx, "validating", h, err, func() {
				_ = shown.AddAnnotation(fmt.Sprintf("%sround_0_index_%d", auditValidatingFailed, i), h.GetName())
			})
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// each is a request in every version that a webhook asks for.
type each struct {
	request *hook.Request
	objects hook.Objects
	shown   map[schema.GroupVersionKind]*admission.VersionedAttributes
}

func (e *each) VersionedAttribute(kind schema.GroupVersionKind) (*admission.VersionedAttributes, error) {
	if shown, ok := e.shown[kind]; ok {
		return shown, nil
	}
	shown, err := admission.NewVersionedAttributes(e.request, kind, e.objects)
	if err == nil {
		e.shown[kind] = shown
	}
	return shown, err
}

// outcome is what a call's error means to the request. One that the webhook's
// failure policy has ignored is noted with failedOpen.
func outcome(ctx context.Context, step string, h upstream.WebhookAccessor, err error, failedOpen func()) error {
	var failure *webhookutil.ErrCallingWebhook
	var rejection *webhookutil.ErrWebhookRejection
	switch {
	case err == nil:
		return nil
	case errors.As(err, &rejection):
		return rejection.Status
	case !errors.As(err, &failure):
		return err
	case !ignores(h):
		return apierrors.NewInternalError(failure)
	}
	if !errors.Is(failure.Reason, context.Canceled) {
		admissionmetrics.Metrics.ObserveWebhookFailOpen(ctx, h.GetName(), step)
		failedOpen()
	}
	if ctx.Err() != nil && step == "admit" {
		return errTimeout()
	}
	return nil
}

func ignores(h upstream.WebhookAccessor) bool {
	policy := h.GetFailurePolicy()
	return policy != nil && *policy == admissionregistrationv1.Ignore
}

// observe counts a call, under upstream's names.
func observe(ctx context.Context, step string, h upstream.WebhookAccessor, a admission.Attributes, took time.Duration, err error) {
	name, operation := h.GetName(), string(a.GetOperation())
	code, rejected := 200, err != nil
	var failure *webhookutil.ErrCallingWebhook
	var rejection *webhookutil.ErrWebhookRejection
	switch {
	case err == nil:
	case errors.As(err, &failure):
		code, rejected = int(failure.Status.ErrStatus.Code), !ignores(h)
		if rejected && !errors.Is(failure.Reason, context.Canceled) {
			admissionmetrics.Metrics.ObserveWebhookRejection(ctx, name, step, operation, admissionmetrics.WebhookRejectionCallingWebhookError, code)
		}
	case errors.As(err, &rejection):
		code = int(rejection.Status.ErrStatus.Code)
		admissionmetrics.Metrics.ObserveWebhookRejection(ctx, name, step, operation, admissionmetrics.WebhookRejectionNoError, code)
	default:
		code = 0
		admissionmetrics.Metrics.ObserveWebhookRejection(ctx, name, step, operation, admissionmetrics.WebhookRejectionAPIServerInternalError, code)
	}
	admissionmetrics.Metrics.ObserveWebhook(ctx, name, took, rejected, a, step, code)
}
