package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/musterhq/muster/control/admission/hook"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// hookParams lets nobody have policies read for them what they may not read
// themselves: who writes a policy must be allowed to get every object of the kind
// of its parameters, and who binds one to get the parameters, or to list them.
type hookParams struct {
	store      *store.Store
	kinds      hook.Kinds
	authorizer authorizer.UnconditionalAuthorizer
}

func (hookParams) Admit(context.Context, *resource.Attributes) error { return nil }

func (h hookParams) Validate(ctx context.Context, a *resource.Attributes) error {
	if a.User == nil || a.Subresource != "" || a.Operation != resource.Create && a.Operation != resource.Update ||
		slices.Contains(a.User.GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	if kind := paramKind(a.Object); kind != nil {
		if old := paramKind(a.OldObject); old != nil && *old == *kind {
			return nil
		}
		return h.invalid(a, field.NewPath("spec", "paramKind"), h.mayReadKind(ctx, a.User, kind))
	}
	if ref, policy := paramRef(a.Object); ref != nil {
		if old, of := paramRef(a.OldObject); old != nil && of == policy && apiequality.Semantic.DeepEqual(old, ref) {
			return nil
		}
		return h.invalid(a, field.NewPath("spec", "paramRef"), h.mayReadRef(ctx, a, ref, policy))
	}
	return nil
}

// invalid words a refusal as upstream does, whose validation finds it.
func (h hookParams) invalid(a *resource.Attributes, path *field.Path, refusal error) error {
	if refusal == nil {
		return nil
	}
	return apierrors.NewInvalid(a.Kind.Spec.Kind.GroupKind(), a.Name, field.ErrorList{field.Forbidden(path, refusal.Error())})
}

// paramKind is that of a policy's parameters; nil for what is no policy.
func paramKind(obj runtime.Object) *admissionregistrationv1.ParamKind {
	switch p := obj.(type) {
	case *admissionregistrationv1.ValidatingAdmissionPolicy:
		return p.Spec.ParamKind
	case *admissionregistrationv1.MutatingAdmissionPolicy:
		return p.Spec.ParamKind
	}
	return nil
}

// paramRef is a binding's, and the policy that it binds.
func paramRef(obj runtime.Object) (ref *admissionregistrationv1.ParamRef, policy string) {
	switch b := obj.(type) {
	case *admissionregistrationv1.ValidatingAdmissionPolicyBinding:
		return b.Spec.ParamRef, b.Spec.PolicyName
	case *admissionregistrationv1.MutatingAdmissionPolicyBinding:
		return b.Spec.ParamRef, b.Spec.PolicyName
	}
	return nil, ""
}

func (h hookParams) mayReadKind(ctx context.Context, u user.Info, kind *admissionregistrationv1.ParamKind) error {
	asked, _ := h.resource(kind)
	asked.User, asked.Verb, asked.Name, asked.Namespace = u, "get", "*", "*"
	decision, _, err := h.authorizer.Authorize(ctx, asked)
	if err == nil && decision != authorizer.DecisionAllow {
		err = fmt.Errorf(`user %v must have "get" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)`, u, kind.Kind, kind.APIVersion)
	}
	return err
}

func (h hookParams) mayReadRef(ctx context.Context, a *resource.Attributes, ref *admissionregistrationv1.ParamRef, policy string) error {
	spec := store.ValidatingAdmissionPolicies
	if a.Kind == resource.MutatingAdmissionPolicyBindings {
		spec = store.MutatingAdmissionPolicies
	}
	// Without the policy's word all kinds are asked for.
	asked := authorizer.AttributesRecord{ResourceRequest: true, APIGroup: "*", APIVersion: "*", Resource: "*"}
	verb, doubt := "get", ""
	stored, err := h.store.Table(spec).Get(ctx, "", policy)
	switch {
	case errors.Is(err, store.ErrNotFound):
		doubt = "unable to get policy " + policy
	case err != nil:
		return err
	default:
		if kind := paramKind(stored); kind != nil {
			var known bool
			if asked, known = h.resource(kind); !known {
				doubt = fmt.Sprintf("unable to resolve paramKind %v", kind)
			}
		}
	}
	if ref.Name == "" {
		verb = "list"
	}
	asked.User, asked.Verb, asked.Name, asked.Namespace = a.User, verb, ref.Name, ref.Namespace
	decision, _, err := h.authorizer.Authorize(ctx, asked)
	switch {
	case err != nil:
		return fmt.Errorf("failed to authorize request: %w", err)
	case decision == authorizer.DecisionAllow:
		return nil
	case doubt != "":
		return fmt.Errorf(`%s to determine minimum required permissions and user %v does not have "%v" permission for all groups, versions and resources`, doubt, a.User, verb)
	}
	return fmt.Errorf(`user %v does not have "%v" permission on the object referenced by paramRef`, a.User, verb)
}

// resource is what to ask about for a kind, as narrow as it is known.
func (h hookParams) resource(kind *admissionregistrationv1.ParamKind) (asked authorizer.AttributesRecord, known bool) {
	asked = authorizer.AttributesRecord{ResourceRequest: true, APIGroup: "*", APIVersion: "*", Resource: "*"}
	gv, err := schema.ParseGroupVersion(kind.APIVersion)
	if err != nil {
		return asked, false
	}
	asked.APIGroup, asked.APIVersion = gv.Group, gv.Version
	for _, k := range h.kinds() {
		if k.Spec.Kind == gv.WithKind(kind.Kind) {
			asked.Resource = k.Spec.Resource.Resource
			return asked, true
		}
	}
	return asked, false
}
