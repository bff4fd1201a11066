package flowschema_test

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/controller/flowschema"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A schema that names a level that is not there does nothing, and says so until
// the level comes.
func TestSchemasSayWhetherTheirLevelIsThere(t *testing.T) {
	term := controllertest.Begin(t, storetest.New(t))
	term.Run(flowschema.New(flowschema.Config{Registry: term.Registry, Logger: term.Logger}).Run)
	controllertest.Create(term, resource.FlowSchemas, &flowcontrolv1.FlowSchema{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "l"}, MatchingPrecedence: 500,
	}})
	says := func(want string) {
		t.Helper()
		controllertest.Eventually(t, func() string {
			s, _ := controllertest.Get[*flowcontrolv1.FlowSchema](term, store.FlowSchemas, "", "s")
			if len(s.Status.Conditions) != 1 || s.Status.Conditions[0].LastTransitionTime.IsZero() {
				return fmt.Sprintf("conditions %+v, want one", s.Status.Conditions)
			}
			c := s.Status.Conditions[0]
			if got := fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message); got != want {
				return fmt.Sprintf("got  %s\nwant %s", got, want)
			}
			return ""
		})
	}
	says(`Dangling=True NotFound: This FlowSchema references the PriorityLevelConfiguration object named "l" but there is no such object`)
	controllertest.Create(term, resource.PriorityLevelConfigurations, &flowcontrolv1.PriorityLevelConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "l"}, Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			NominalConcurrencyShares: new(int32(1)), LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
		},
	}})
	says(`Dangling=False Found: This FlowSchema references the PriorityLevelConfiguration object named "l" and it exists`)
	controllertest.Change(term, resource.FlowSchemas, "", "s", "", func(s *flowcontrolv1.FlowSchema) { s.Spec.PriorityLevelConfiguration.Name = "other" })
	says(`Dangling=True NotFound: This FlowSchema references the PriorityLevelConfiguration object named "other" but there is no such object`)
}
