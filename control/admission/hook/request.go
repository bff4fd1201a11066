// Package hook is what the hooks that users configure have in common, whether
// they are webhooks or policies: a write in the form in which Kubernetes shows
// it to them (Request), conversions between the versions of an object, and the
// configuration itself, as new as this replica (Configured). Calling the hooks
// is the business of the packages beside this one.
package hook

import (
	"context"
	"slices"

	"k8s.io/apiserver/pkg/admission"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
)

// controlPlane is who hooks are told wrote what no user did.
var controlPlane user.Info = &user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}}

// Request is one write as hooks see it: Kubernetes' own form of it. It lives as
// long as one call of Admit or Validate, with all repetitions. The object is
// that of the write: a hook that changes it changes what is stored.
type Request struct {
	admission.Attributes
	audit *audit.AuditContext
	ctx   context.Context
}

// NewRequest shows a to hooks.
func NewRequest(ctx context.Context, a *resource.Attributes) *Request {
	who, name, namespace := a.User, a.Name, a.Namespace
	if who == nil {
		who = controlPlane
	}
	if a.Kind == resource.Namespaces {
		namespace = name
	}
	return &Request{
		Attributes: admission.NewAttributesRecord(a.Object, a.OldObject, a.GroupVersionKind(), namespace, name,
			a.GroupVersionResource(), a.Subresource, admission.Operation(a.Operation), a.Options(), a.DryRun, who),
		audit: audit.AuditContextFrom(ctx),
		ctx:   ctx,
	}
}

// AddAnnotation adds to what the audit log says of the request.
func (r *Request) AddAnnotation(key, value string) error {
	return r.AddAnnotationWithLevel(key, value, auditinternal.LevelMetadata)
}

// AddAnnotationWithLevel is AddAnnotation for audit logs that are kept at a
// level, or more.
func (r *Request) AddAnnotationWithLevel(key, value string, level auditinternal.Level) error {
	if err := r.Attributes.AddAnnotationWithLevel(key, value, level); err != nil {
		return err
	}
	if r.audit != nil && !r.audit.GetEventLevel().Less(level) {
		audit.AddAuditAnnotation(r.ctx, key, value)
	}
	return nil
}

// Unhooked says that no hook may come between: the hooks' own configuration,
// which could not be mended any more, and the reviews that authentication and
// authorization are made of.
func Unhooked(a *resource.Attributes) bool {
	return a.Kind.Spec.Resource.Group == resource.MutatingWebhookConfigurations.Spec.Resource.Group ||
		slices.Contains(kube.Unhooked, a.Kind.Spec.Resource)
}
