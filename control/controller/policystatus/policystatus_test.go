package policystatus_test

import (
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
