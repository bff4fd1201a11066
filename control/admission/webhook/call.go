package webhook

import (
	"context"
	"fmt"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	webhookerrors "k8s.io/apiserver/pkg/admission/plugin/webhook/errors"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/generic"
	webhookrequest "k8s.io/apiserver/pkg/admission/plugin/webhook/request"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/pkg/warning"
)

// errTimeout is the answer when the request itself, not one webhook, has run
// out of time.
func errTimeout() error {
	return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
}

// call sends a request to one webhook and takes its answer. An error is an
// *ErrCallingWebhook if no sensible answer came, which the webhook's failure
// policy is about, or an *ErrWebhookRejection, or the request's fault.
func (c *caller) call(ctx context.Context, invocation *generic.WebhookInvocation, mutating bool, a *admission.VersionedAttributes) (*webhookrequest.AdmissionResponse, error) {
	h := invocation.Webhook
	failed := func(status *apierrors.StatusError, format string, args ...any) error {
		return &webhookutil.ErrCallingWebhook{WebhookName: h.GetName(), Reason: fmt.Errorf(format, args...), Status: status}
	}
	if a.IsDryRun() {
		switch effects := h.GetSideEffects(); {
		case effects == nil:
			return nil, failed(apierrors.NewBadRequest("Webhook SideEffects is nil"), "Webhook SideEffects is nil") //nolint:staticcheck // upstream's wording
		case *effects != admissionregistrationv1.SideEffectClassNone && *effects != admissionregistrationv1.SideEffectClassNoneOnDryRun:
			return nil, webhookerrors.NewDryRunUnsupportedErr(h.GetName())
		}
	}
	uid, request, response, err := webhookrequest.CreateAdmissionObjects(a, invocation)
	if err != nil {
		return nil, failed(apierrors.NewBadRequest("error creating admission objects"), "could not create admission objects: %w", err)
	}
	client, err := h.GetRESTClient(&c.clients)
	if err != nil {
		return nil, failed(apierrors.NewInternalError(err), "could not get REST client: %w", err)
	}
	if seconds := h.GetTimeoutSeconds(); seconds != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(*seconds)*time.Second)
		defer cancel()
	}
	call := client.Post().Body(request)
	// The webhook is told, in whole seconds, how long it has.
	if deadline, ok := ctx.Deadline(); ok {
		if left := time.Until(deadline); left > 0 {
			call.Timeout((left + time.Second - 1).Truncate(time.Second))
		}
	}
	err = c.enter(ctx)
	if err == nil {
		err = call.Do(ctx).Into(response)
		c.leave()
	}
	if err != nil {
		return nil, failed(statusOf(err), "failed to call webhook: %w", err)
	}
	result, err := webhookrequest.VerifyAdmissionResponse(uid, mutating, response)
	if err != nil {
		return nil, failed(apierrors.NewServiceUnavailable("error validating webhook response"), "received invalid webhook response: %w", err)
	}
	for key, value := range result.AuditAnnotations {
		// One that is not well formed is not worth a request.
		_ = a.AddAnnotation(h.GetName()+"/"+key, value)
	}
	for _, text := range result.Warnings {
		warning.AddWarning(ctx, "", text)
	}
	if !result.Allowed {
		return nil, &webhookutil.ErrWebhookRejection{Status: webhookerrors.ToStatusErr(h.GetName(), result.Result)}
	}
	return result, nil
}

func statusOf(err error) *apierrors.StatusError {
	if status, ok := err.(*apierrors.StatusError); ok { //nolint:errorlint // one that is wrapped says more than its status
		return status
	}
	return apierrors.NewServiceUnavailable("error calling webhook")
}
