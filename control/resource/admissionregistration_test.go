package resource

import (
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/store"
)

func admissionExamples() map[*Kind]store.Object {
	named := metav1.ObjectMeta{Name: "x"}
	return map[*Kind]store.Object{
		MutatingWebhookConfigurations:   &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: named},
		ValidatingWebhookConfigurations: &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: named},
		ValidatingAdmissionPolicies:     newPolicy("x", "true"),
		ValidatingAdmissionPolicyBindings: &admissionregistrationv1.ValidatingAdmissionPolicyBinding{ObjectMeta: named, Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "x", ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny},
		}},
		MutatingAdmissionPolicies: &admissionregistrationv1.MutatingAdmissionPolicy{ObjectMeta: named, Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
			ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
			MatchConstraints:   &admissionregistrationv1.MatchResources{ResourceRules: podRules},
			Mutations: []admissionregistrationv1.Mutation{{
				PatchType: admissionregistrationv1.PatchTypeJSONPatch, JSONPatch: &admissionregistrationv1.JSONPatch{Expression: `[JSONPatch{op: "remove", path: "/metadata/labels"}]`},
			}},
		}},
		MutatingAdmissionPolicyBindings: &admissionregistrationv1.MutatingAdmissionPolicyBinding{ObjectMeta: named, Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "x"}},
	}
}

var podRules = []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
	Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
	Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
}}}

func newPolicy(name, expression string) *admissionregistrationv1.ValidatingAdmissionPolicy {
	return &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: podRules},
		Validations:      []admissionregistrationv1.Validation{{Expression: expression}},
	}}
}

func TestHooksAreValidated(t *testing.T) {
	r := newRegistry(t)
	for _, c := range []struct {
		name string
		kind *Kind
		obj  store.Object
		want string
	}{
		{"an expression that does not compile", ValidatingAdmissionPolicies, newPolicy("bad", "object.spec."), "compilation failed"},
		{"a name that is kept for files", ValidatingAdmissionPolicies, newPolicy("bad.static.k8s.io", "true"), "are reserved for static manifest-based configurations"},
		{"a webhook without side effects told", MutatingWebhookConfigurations, &admissionregistrationv1.MutatingWebhookConfiguration{
			ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Webhooks: []admissionregistrationv1.MutatingWebhook{{
				Name: "a.example.org", ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: ptr.To("https://example.org")}, AdmissionReviewVersions: []string{"v1"},
			}},
		}, "webhooks[0].sideEffects: Required value"},
	} {
		if _, err := r.Create(t.Context(), c.kind, "", c.obj, CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want 422 with %q", c.name, err, c.want)
		}
	}
}

// The controller that checks a policy's types says in the status for which
// generation it did.
func TestPolicyGenerationFollowsItsSpec(t *testing.T) {
	r := newRegistry(t)
	policy := must(t, r, ValidatingAdmissionPolicies, "", newPolicy("p", "true"))
	for _, c := range []struct {
		name   string
		change func(*admissionregistrationv1.ValidatingAdmissionPolicy)
		want   int64
	}{
		{"a label", func(p *admissionregistrationv1.ValidatingAdmissionPolicy) { p.Labels = map[string]string{"a": "b"} }, 1},
		{"a status", func(p *admissionregistrationv1.ValidatingAdmissionPolicy) { p.Status.ObservedGeneration = 7 }, 1},
		{"an expression", func(p *admissionregistrationv1.ValidatingAdmissionPolicy) {
			p.Spec.Validations[0].Expression = "false"
		}, 2},
	} {
		got, _, err := r.Update(t.Context(), ValidatingAdmissionPolicies, "", "p", "", func(current store.Object) (store.Object, error) {
			c.change(current.(*admissionregistrationv1.ValidatingAdmissionPolicy))
			return current, nil
		}, UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		policy = got.(*admissionregistrationv1.ValidatingAdmissionPolicy)
		if status := policy.Status; got.GetGeneration() != c.want || status.ObservedGeneration != 0 {
			t.Errorf("%s: generation %d, want %d; status %+v, want none", c.name, got.GetGeneration(), c.want, status)
		}
	}
	policy.SetResourceVersion("")
	if _, _, err := r.Update(t.Context(), ValidatingAdmissionPolicies, "", "p", "", replace(policy), UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an update that names no version: %v, want 422", err)
	}
}
