package audit

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	upstream "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"
	"sigs.k8s.io/yaml"
)

// objectMax bounds an object in an event. Larger ones are left out, and the
// annotation audit.k8s.io/truncated says so, as upstream's does.
const objectMax = 1 << 20

// Event is one request on its way. It belongs to the goroutine that serves the
// request. A nil Event is one that nobody wants written down.
type Event struct {
	log    *Log
	how    upstream.RequestAuditConfig
	entry  auditv1.Event
	status *metav1.Status
	// noted is where hooks and upstream's libraries, from whatever goroutine, leave
	// annotations.
	noted *upstream.AuditContext
}

type key struct{}

// With makes an event known to those who serve its request: to who asks From, and
// to upstream's libraries, whose annotations it will have.
func With(ctx context.Context, e *Event) context.Context {
	if e == nil {
		return ctx
	}
	ctx = upstream.WithAuditContext(ctx)
	if noted := upstream.AuditContextFrom(ctx); noted.Init(e.how, nil) == nil { // the first event of a request has them
		e.noted = noted
	}
	return context.WithValue(ctx, key{}, e)
}

// From is the event of a request, or nil.
func From(ctx context.Context) *Event {
	e, _ := ctx.Value(key{}).(*Event)
	return e
}

// Impersonated says as whom the request is answered.
func (e *Event) Impersonated(as user.Info) {
	if e != nil {
		who := info(as)
		e.entry.ImpersonatedUser = &who
	}
}

// Decided says whether the request was allowed, and why.
func (e *Event) Decided(allowed bool, reason string) {
	if e == nil {
		return
	}
	decision := "forbid"
	if allowed {
		decision = "allow"
	}
	e.annotate("authorization.k8s.io/decision", decision)
	e.annotate("authorization.k8s.io/reason", reason)
}

func (e *Event) annotate(key, value string) {
	if e.entry.Annotations == nil {
		e.entry.Annotations = map[string]string{}
	}
	e.entry.Annotations[key] = value
}

// Sent is an object that the client sent, of that kind.
func (e *Event) Sent(obj runtime.Object, kind schema.GroupVersionKind) {
	if e == nil {
		return
	}
	if ref := e.entry.ObjectRef; ref != nil {
		if m, err := meta.Accessor(obj); err == nil {
			ref.Namespace, ref.Name = or(ref.Namespace, m.GetNamespace()), or(ref.Name, m.GetName())
			ref.UID, ref.ResourceVersion = or(ref.UID, m.GetUID()), or(ref.ResourceVersion, m.GetResourceVersion())
		}
	}
	if !e.how.Level.Less(auditinternal.LevelRequest) {
		e.entry.RequestObject = e.encoded(obj, kind)
	}
}

func or[T ~string](value, otherwise T) T {
	if value != "" {
		return value
	}
	return otherwise
}

// SentPatch is a patch that the client sent, in JSON or YAML.
func (e *Event) SentPatch(patch []byte) {
	if e == nil || e.how.Level.Less(auditinternal.LevelRequest) {
		return
	}
	if !json.Valid(patch) {
		converted, err := yaml.YAMLToJSON(patch)
		if err != nil {
			return
		}
		patch = converted
	}
	e.entry.RequestObject = e.bounded(slices.Clone(patch))
}

// WantsAnswer says whether Answered has any use for objects: whoever does not
// have one at hand need not make it.
func (e *Event) WantsAnswer() bool {
	return e != nil && !e.how.Level.Less(auditinternal.LevelRequestResponse)
}

// Answered is what the client is answered with, of that kind.
func (e *Event) Answered(obj runtime.Object, kind schema.GroupVersionKind) {
	if status, ok := obj.(*metav1.Status); ok && e != nil {
		e.status = &metav1.Status{Status: status.Status, Message: status.Message, Reason: status.Reason, Details: status.Details, Code: status.Code}
	}
	if e.WantsAnswer() {
		e.entry.ResponseObject = e.encoded(obj, kind)
	}
}

// Began says that an answer that lasts (a watch, a stream) has begun.
func (e *Event) Began(code int) {
	if e != nil {
		e.end(auditinternal.StageResponseStarted, code)
	}
}

// Ended says that the request is over.
func (e *Event) Ended(code int) {
	if e != nil {
		e.end(auditinternal.StageResponseComplete, code)
	}
}

// Panicked says that serving the request failed by a fault of ours.
func (e *Event) Panicked(code int, message string) {
	if e != nil {
		e.status = &metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Message: "APIServer panic'd: " + message}
		e.end(auditinternal.StagePanic, code)
	}
}

func (e *Event) end(stage auditinternal.Stage, code int) {
	status := metav1.Status{}
	if e.status != nil {
		status = *e.status
	}
	status.Code = int32(code) //nolint:gosec // of HTTP
	e.entry.ResponseStatus = &status
	e.write(stage)
}

func (e *Event) write(stage auditinternal.Stage) {
	if slices.Contains(e.how.OmitStages, stage) {
		return
	}
	if e.noted != nil {
		for key, value := range e.noted.GetEventAnnotations() {
			e.annotate(key, value)
		}
	}
	e.entry.Stage = auditv1.Stage(stage)
	e.entry.StageTimestamp = metav1.NewMicroTime(time.Now())
	if stage == auditinternal.StageRequestReceived {
		e.entry.StageTimestamp = e.entry.RequestReceivedTimestamp
	}
	e.log.put(&e.entry)
}

// encoded is an object as it is written down. obj is not changed.
func (e *Event) encoded(obj runtime.Object, kind schema.GroupVersionKind) *runtime.Unknown {
	copied := obj.DeepCopyObject()
	copied.GetObjectKind().SetGroupVersionKind(kind)
	if e.how.OmitManagedFields {
		forget := func(obj runtime.Object) error {
			if m, err := meta.Accessor(obj); err == nil {
				m.SetManagedFields(nil)
			}
			return nil
		}
		_ = forget(copied)
		if meta.IsListType(copied) {
			_ = meta.EachListItem(copied, forget)
		}
	}
	body, err := json.Marshal(copied)
	if err != nil {
		return nil
	}
	return e.bounded(body)
}

func (e *Event) bounded(body []byte) *runtime.Unknown {
	if len(body) > objectMax {
		e.annotate("audit.k8s.io/truncated", "true")
		return nil
	}
	return &runtime.Unknown{Raw: body, ContentType: runtime.ContentTypeJSON}
}
