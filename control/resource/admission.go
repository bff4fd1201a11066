package resource

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/musterhq/muster/control/store"
)

// Admission checks a write against the rest of the cluster, before and after
// the kind's own rules. The chain that implements it is package admission.
type Admission interface {
	// Admit may change a.Object. It runs before the object is prepared and
	// validated, and may run again for the same write.
	Admit(ctx context.Context, a *Attributes) error
	// Validate sees the object as it would be stored and must not change it.
	Validate(ctx context.Context, a *Attributes) error
}

// Operation is what a write does.
type Operation string

const (
	Create Operation = "CREATE"
	Update Operation = "UPDATE"
	Delete Operation = "DELETE"
	// Connect opens a stream to what the object stands for, and stores nothing.
	Connect Operation = "CONNECT"
)

// Attributes describe one write to admission.
type Attributes struct {
	Operation       Operation
	Kind            *Kind
	Namespace, Name string
	Subresource     string
	// Version and As are the version of the resource, and the kind of the
	// objects, that the request named. Empty: Kind's own.
	Version string
	As      schema.GroupVersionKind
	// Object is what will be stored; nil for a delete. To connect, it is the
	// options in the query.
	Object runtime.Object
	// OldObject is what is stored; nil for a create. It must not be changed.
	OldObject runtime.Object
	DryRun    bool
	// FieldManager and FieldValidation are as the request has them.
	FieldManager, FieldValidation string
	// Patch says that an update was asked for as a patch.
	Patch bool
	// DeleteOptions are those of a delete; nil for anything else.
	DeleteOptions *metav1.DeleteOptions
	// User who asked; nil for the control plane's own writes.
	User user.Info
	// Demands is what Validate relied on in allowing a create or an update, as
	// store.Check writes, and what it has others know of it, as further writes. All
	// are one transaction with the write: should one not hold any more, nothing is
	// written and Validate is asked again.
	Demands []store.Write
	// Tried are called, once, when the write that Validate has allowed was tried,
	// whatever came of it.
	Tried []func()
}

// tried tells admission that the write is over.
func (a *Attributes) tried() {
	for _, f := range a.Tried {
		f()
	}
	a.Tried = nil
}

// Forbidden is the answer to a write that admission refuses, worded as upstream
// words it.
func (a *Attributes) Forbidden(reason error) *apierrors.StatusError {
	return apierrors.NewForbidden(a.Kind.Spec.Resource, a.name(), reason)
}

// GroupVersionResource is the resource as the request named it.
func (a *Attributes) GroupVersionResource() schema.GroupVersionResource {
	resource := a.Kind.GroupVersionResource()
	if a.Version != "" {
		resource.Version = a.Version
	}
	return resource
}

// GroupVersionKind is the kind of the objects.
func (a *Attributes) GroupVersionKind() schema.GroupVersionKind {
	if !a.As.Empty() {
		return a.As
	}
	return a.Kind.Spec.Kind.GroupKind().WithVersion(a.GroupVersionResource().Version)
}

// Options are those of the request, as Kubernetes has them: nil to connect.
func (a *Attributes) Options() runtime.Object {
	var dryRun []string
	if a.DryRun {
		dryRun = []string{metav1.DryRunAll}
	}
	switch a.Operation {
	case Create:
		options := &metav1.CreateOptions{DryRun: dryRun, FieldManager: a.FieldManager, FieldValidation: a.FieldValidation}
		options.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("CreateOptions"))
		return options
	case Update:
		options := &metav1.UpdateOptions{DryRun: dryRun, FieldManager: a.FieldManager, FieldValidation: a.FieldValidation}
		options.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("UpdateOptions"))
		return options
	case Delete:
		options := &metav1.DeleteOptions{}
		if a.DeleteOptions != nil {
			options = a.DeleteOptions.DeepCopy()
		}
		options.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("DeleteOptions"))
		return options
	}
	return nil
}

// name is what the object is or will be called, as far as that is known.
func (a *Attributes) name() string {
	if a.Name != "" {
		return a.Name
	}
	if a.Object != nil {
		if m, err := meta.Accessor(a.Object); err == nil {
			if m.GetName() != "" {
				return m.GetName()
			}
			if m.GetGenerateName() != "" {
				return m.GetGenerateName()
			}
		}
	}
	return "Unknown"
}

// AdmitAll is the chain of no checks.
type AdmitAll struct{}

func (AdmitAll) Admit(context.Context, *Attributes) error    { return nil }
func (AdmitAll) Validate(context.Context, *Attributes) error { return nil }

// requester is the user in whose name ctx acts.
func requester(ctx context.Context) user.Info {
	u, _ := genericrequest.UserFrom(ctx)
	return u
}
