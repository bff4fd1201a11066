package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	webhookerrors "k8s.io/apiserver/pkg/admission/plugin/webhook/errors"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/generic"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"

	"github.com/musterhq/muster/control/admission/hook"
	"github.com/musterhq/muster/control/kube"
)

// Upstream's keys of what the audit log tells of mutating webhooks.
const (
	auditPatch          = "patch.webhook.admission.k8s.io/"
	auditMutation       = "mutation.webhook.admission.k8s.io/"
	auditMutationFailed = "failed-open." + auditMutation
)

// mutation is what the webhooks of one request did, for their second round.
type mutation struct {
	output    runtime.Object   // as the last round left it
	invoked   sets.Set[string] // those that want to be asked again
	reinvoked sets.Set[string] // those that will be
}

// again has those asked again that were asked before something changed.
func (m *mutation) again() {
	m.reinvoked = m.reinvoked.Union(m.invoked)
	m.invoked = sets.New[string]()
}

// Admit asks the mutating webhooks one after the other, each about what the one
// before has left. The chain calls it once more if it or a policy changed the
// object (Request.GetReinvocationContext): then only those that want it, and
// were asked before the change, are asked again.
func (w *Webhooks) Admit(ctx context.Context, r *hook.Request) error {
	hooks, err := w.mutating.Now()
	if err != nil {
		return err
	}
	round := r.GetReinvocationContext()
	m, _ := round.Value("webhooks").(*mutation)
	if m == nil {
		m = &mutation{invoked: sets.New[string](), reinvoked: sets.New[string]()}
		round.SetValue("webhooks", m)
	}
	if round.IsReinvoke() && !apiequality.Semantic.DeepEqual(m.output, r.GetObject()) {
		m.again()
	}
	v := &latest{request: r, objects: w.objects}
	for i, h := range hooks {
		invocation, refused := w.concerns(ctx, h, v.attributes(), v)
		switch {
		case refused != nil:
			return refused
		case invocation == nil, round.IsReinvoke() && !m.reinvoked.Has(h.GetUID()):
			continue
		}
		shown, err := v.VersionedAttribute(invocation.Kind)
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		hook, _ := h.GetMutatingWebhook()
		note := newNote(shown, h, i, round.IsReinvoke())
		start := time.Now()
		changed, err := w.mutate(ctx, invocation, shown, note)
		observe(ctx, "admit", h, shown.Attributes, time.Since(start), err)
		note.mutated(changed)
		if changed {
			m.again()
			round.SetShouldReinvoke()
		}
		if hook.ReinvocationPolicy != nil && *hook.ReinvocationPolicy == admissionregistrationv1.IfNeededReinvocationPolicy {
			m.invoked.Insert(h.GetUID())
		}
		if err := outcome(ctx, "admit", h, err, note.failedOpen); err != nil {
			return err
		}
	}
	if err := v.write(); err != nil {
		return err
	}
	if m.output = r.GetObject(); m.output != nil {
		m.output = m.output.DeepCopyObject()
	}
	return nil
}

// mutate calls one webhook and applies its patch.
func (w *Webhooks) mutate(ctx context.Context, invocation *generic.WebhookInvocation, a *admission.VersionedAttributes, note *note) (changed bool, err error) {
	answer, err := w.caller.call(ctx, invocation, true, a)
	if err != nil || len(answer.Patch) == 0 {
		return false, err
	}
	name := invocation.Webhook.GetName()
	failed := func(status *apierrors.StatusError, format string, args ...any) error {
		return &webhookutil.ErrCallingWebhook{WebhookName: name, Reason: fmt.Errorf(format, args...), Status: status}
	}
	patch, err := jsonpatch.DecodePatch(answer.Patch)
	switch {
	case err != nil:
		return false, failed(apierrors.NewServiceUnavailable("error decoding patch in webhook response"), "received undecodable patch in webhook response: %w", err)
	case len(patch) == 0:
		return false, nil
	case a.VersionedObject.Object() == nil:
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", name))
	case answer.PatchType != admissionv1.PatchTypeJSONPatch:
		return false, failed(webhookerrors.ToStatusErr(name, answer.Result), "unsupported patch type %q", answer.PatchType)
	}
	codec := kjson.NewSerializerWithOptions(kjson.DefaultMetaFactory, w.objects.GetObjectCreater(), w.objects.GetObjectTyper(), kjson.SerializerOptions{})
	document, err := runtime.Encode(codec, a.VersionedObject.Object())
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	if document, err = patch.Apply(document); err != nil {
		return false, apierrors.NewInternalError(err)
	}
	var patched runtime.Object = &unstructured.Unstructured{}
	if _, ok := a.VersionedObject.Object().(*unstructured.Unstructured); !ok {
		if patched, err = w.objects.GetObjectCreater().New(a.VersionedKind); err != nil {
			return false, apierrors.NewInternalError(err)
		}
	}
	if patched, _, err = codec.Decode(document, nil, patched); err != nil {
		return false, apierrors.NewInternalError(err)
	}
	changed = !apiequality.Semantic.DeepEqual(a.VersionedObject.Object(), patched)
	note.patched(patch)
	a.UpdateObject(patched)
	w.objects.GetObjectDefaulter().Default(patched)
	return changed, nil
}

// latest is a request as the webhooks so far have left it, in the version that
// the last of them asked for.
type latest struct {
	request *hook.Request
	objects hook.Objects
	shown   *admission.VersionedAttributes
}

func (l *latest) attributes() admission.Attributes {
	if l.shown != nil {
		return l.shown
	}
	return l.request
}

func (l *latest) VersionedAttribute(kind schema.GroupVersionKind) (*admission.VersionedAttributes, error) {
	if l.shown != nil {
		return l.shown, admission.ConvertVersionedAttributes(l.shown, kind, l.objects)
	}
	shown, err := admission.NewVersionedAttributes(l.request, kind, l.objects)
	if err == nil {
		l.shown = shown
	}
	return shown, err
}

// write takes what changed over into the request's object.
func (l *latest) write() error {
	if l.shown == nil || !l.shown.Dirty || l.shown.VersionedObject.Object() == nil {
		return nil
	}
	if err := l.objects.GetObjectConvertor().Convert(l.shown.VersionedObject.Object(), l.request.GetObject(), nil); err != nil {
		return err
	}
	return kube.Normalize(l.request.GetObject())
}

// note is what the audit log tells of one call.
type note struct {
	attributes                   admission.Attributes
	webhook, configuration, call string
}

func newNote(a *admission.VersionedAttributes, h interface {
	GetName() string
	GetConfigurationName() string
}, index int, again bool) *note {
	round := 0
	if again {
		round = 1
	}
	return &note{
		attributes: a.Attributes, webhook: h.GetName(), configuration: h.GetConfigurationName(),
		call: fmt.Sprintf("round_%d_index_%d", round, index),
	}
}

// Upstream only logs when a note cannot be taken, which is when there is one of
// the same name already.

func (n *note) failedOpen() { _ = n.attributes.AddAnnotation(auditMutationFailed+n.call, n.webhook) }

func (n *note) mutated(changed bool) {
	value, err := json.Marshal(struct {
		Configuration string `json:"configuration"`
		Webhook       string `json:"webhook"`
		Mutated       bool   `json:"mutated"`
	}{n.configuration, n.webhook, changed})
	if err == nil {
		_ = n.attributes.AddAnnotation(auditMutation+n.call, string(value))
	}
}

// patched tells a part of the object, so it is for logs that tell all of it.
func (n *note) patched(patch jsonpatch.Patch) {
	value, err := json.Marshal(struct {
		Configuration string          `json:"configuration"`
		Webhook       string          `json:"webhook"`
		Patch         jsonpatch.Patch `json:"patch,omitempty"`
		PatchType     string          `json:"patchType,omitempty"`
	}{n.configuration, n.webhook, patch, string(admissionv1.PatchTypeJSONPatch)})
	if err == nil {
		_ = n.attributes.AddAnnotationWithLevel(auditPatch+n.call, string(value), auditinternal.LevelRequest)
	}
}
