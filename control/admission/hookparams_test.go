package admission

import (
	"context"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

// A policy's parameters are read by the control plane, and its messages can say
// what is in them.
func TestNobodyHasParametersReadThatTheyMayNotRead(t *testing.T) {
	s := storetest.New(t)
	params := &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "Secret"}
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{ParamKind: params}}
	if _, err := s.Table(store.ValidatingAdmissionPolicies).Create(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	binding := func(of string, ref admissionregistrationv1.ParamRef) runtime.Object {
		return &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: of, ParamRef: &ref}}
	}
	named, selected := admissionregistrationv1.ParamRef{Name: "key", Namespace: "team"}, admissionregistrationv1.ParamRef{Selector: &metav1.LabelSelector{}}
	for _, c := range []struct {
		name     string
		kind     *resource.Kind
		obj, old runtime.Object
		asked    string
		want     string
	}{
		{"a policy", resource.ValidatingAdmissionPolicies, policy, nil, "get secrets */*",
			`spec.paramKind: Forbidden: user jane must have "get" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)`},
		{"a policy whose kind stays", resource.ValidatingAdmissionPolicies, policy, policy, "", ""},
		{"a binding by name", resource.ValidatingAdmissionPolicyBindings, binding("p", named), nil, "get secrets team/key",
			`spec.paramRef: Forbidden: user jane does not have "get" permission on the object referenced by paramRef`},
		{"a binding by label", resource.ValidatingAdmissionPolicyBindings, binding("p", selected), nil, "list secrets /",
			`spec.paramRef: Forbidden: user jane does not have "list" permission on the object referenced by paramRef`},
		{"a binding of nothing", resource.ValidatingAdmissionPolicyBindings, binding("none", named), nil, "get * team/key",
			`unable to get policy none to determine minimum required permissions`},
		{"a binding that stays", resource.ValidatingAdmissionPolicyBindings, binding("p", named), binding("p", named), "", ""},
	} {
		for _, may := range []bool{false, true} {
			asked := &questioned{may: may}
			operation := resource.Create
			if c.old != nil {
				operation = resource.Update
			}
			err := hookParams{s, resource.Builtin, asked}.Validate(t.Context(), &resource.Attributes{
				Operation: operation, Kind: c.kind, Name: "x", Object: c.obj, OldObject: c.old, User: justName("jane"),
			})
			if asked.about != c.asked {
				t.Errorf("%s: asked about %q, want %q", c.name, asked.about, c.asked)
			}
			if refused := c.want != "" && !may; refused && (!apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want)) || !refused && err != nil {
				t.Errorf("%s, allowed %t: error %v, want %q", c.name, may, err, c.want)
			}
		}
	}
}

// justName is a user whose name is all that messages show.
type justName string

func (n justName) GetName() string               { return string(n) }
func (n justName) GetUID() string                { return "" }
func (n justName) GetGroups() []string           { return nil }
func (n justName) GetExtra() map[string][]string { return nil }

var _ user.Info = justName("")

// questioned allows everything or nothing, and keeps what it was asked.
type questioned struct {
	may   bool
	about string
}

func (a *questioned) Authorize(_ context.Context, asked authorizer.Attributes) (authorizer.Decision, string, error) {
	a.about = asked.GetVerb() + " " + asked.GetResource() + " " + asked.GetNamespace() + "/" + asked.GetName()
	if a.may {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}
