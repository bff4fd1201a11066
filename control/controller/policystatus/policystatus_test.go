package policystatus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/controller/policystatus"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// document is as much of Kubernetes' as the tests ask about.
const document = `{"components": {"schemas": {
	"Pod": {
		"type": "object",
		"x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Pod"}],
		"properties": {"spec": {"default": {}, "allOf": [{"$ref": "#/components/schemas/PodSpec"}]}}
	},
	"PodSpec": {"type": "object", "properties": {"nodeName": {"type": "string"}, "priority": {"type": "integer", "format": "int32"}}}
}}}`

func TestPolicyHearsWhereItsTypesDoNotFit(t *testing.T) {
	term := controllertest.Begin(t, storetest.New(t))
	term.Run(policystatus.New(policystatus.Config{Registry: term.Registry, Logger: term.Logger, Document: func(gv schema.GroupVersion) ([]byte, error) {
		if gv.String() != "v1" {
			return nil, errors.New("no such document")
		}
		return []byte(document), nil
	}}).Run)
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
			Operations: []admissionregistrationv1.OperationType{"*"},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
		}}}},
		Validations: []admissionregistrationv1.Validation{
			{Expression: "object.spec.nodeName != 'n1'"},
			{Expression: "object.spec.priority > 'high'"},
			{Expression: "object.spec.prioritee > 1"},
		},
	}}
	controllertest.Create(term, resource.ValidatingAdmissionPolicies, policy)
	checked := func(generation int64, want ...string) {
		t.Helper()
		controllertest.Eventually(t, func() string {
			p, _ := controllertest.Get[*admissionregistrationv1.ValidatingAdmissionPolicy](term, store.ValidatingAdmissionPolicies, "", "p")
			if p.Status.ObservedGeneration != generation || p.Status.TypeChecking == nil {
				return fmt.Sprintf("status %+v, want generation %d checked", p.Status, generation)
			}
			warnings := p.Status.TypeChecking.ExpressionWarnings
			if len(warnings) != len(want) {
				return fmt.Sprintf("warnings %+v, want %q", warnings, want)
			}
			for i, w := range warnings {
				if said := w.FieldRef + ": " + w.Warning; !strings.Contains(said, want[i]) {
					return fmt.Sprintf("warning %q, want %q", said, want[i])
				}
			}
			return ""
		})
	}
	checked(1, "found no matching overload for '_>_' applied to '(int, string)'", "undefined field 'prioritee'")
	controllertest.Change(term, resource.ValidatingAdmissionPolicies, "", "p", "", func(p *admissionregistrationv1.ValidatingAdmissionPolicy) {
		p.Spec.Validations = p.Spec.Validations[:1]
	})
	checked(2)
}

// widgets are a kind that a user defined: not more of it than is asked about.
func widgets() (resource.Custom, resource.Document) {
	gv := schema.GroupVersion{Group: "example.org", Version: "v1"}
	kind := &resource.Kind{Spec: &store.Spec{Resource: schema.GroupResource{Group: gv.Group, Resource: "widgets"}, Kind: gv.WithKind("Widget"), Namespaced: true}}
	return resource.Custom{Stored: kind, Served: []*resource.Kind{kind}}, resource.Document{GroupVersion: gv, V3: func() ([]byte, error) {
		return []byte(`{"components": {"schemas": {"org.example.v1.Widget": {
			"type": "object",
			"x-kubernetes-group-version-kind": [{"group": "example.org", "version": "v1", "kind": "Widget"}],
			"properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer"}}}}
		}}}}`), nil
	}}
}

// Most policies of operators are about kinds of their own.
func TestPolicyHearsOfTheTypesOfCustomKinds(t *testing.T) {
	term := controllertest.Begin(t, storetest.New(t))
	// The kinds become known only when they are asked for, as on a replica that has
	// just applied them.
	term.Registry.KeptBy(func(context.Context) error {
		kind, document := widgets()
		term.Registry.SetCustom([]resource.Custom{kind}, []resource.Document{document})
		return nil
	})
	term.Run(policystatus.New(policystatus.Config{Registry: term.Registry, Logger: term.Logger, Document: func(schema.GroupVersion) ([]byte, error) {
		return nil, errors.New("no such document")
	}}).Run)
	controllertest.Create(term, resource.ValidatingAdmissionPolicies, &admissionregistrationv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{RuleWithOperations: admissionregistrationv1.RuleWithOperations{
			Operations: []admissionregistrationv1.OperationType{"*"},
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{"example.org"}, APIVersions: []string{"v1"}, Resources: []string{"widgets"}},
		}}}},
		Validations: []admissionregistrationv1.Validation{{Expression: "object.spec.size < 3"}, {Expression: "object.spec.size == 'large'"}},
	}})
	controllertest.Eventually(t, func() string {
		p, _ := controllertest.Get[*admissionregistrationv1.ValidatingAdmissionPolicy](term, store.ValidatingAdmissionPolicies, "", "p")
		if p.Status.TypeChecking == nil || len(p.Status.TypeChecking.ExpressionWarnings) != 1 || p.Status.TypeChecking.ExpressionWarnings[0].FieldRef != "spec.validations[1].expression" {
			return fmt.Sprintf("status %+v, want one warning, of the second expression", p.Status)
		}
		return ""
	})
}
