package customresource

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/custom"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// in runs a test in a bubble with its own clock, over a running controller and a
// node that follows definitions.
func in(t *testing.T, f func(t *testing.T, m *test.Term)) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		follower, err := custom.NewFollower(custom.Config{Store: m.Registry.Store(), Registry: m.Registry, Logger: m.Logger})
		if err != nil {
			t.Fatal(err)
		}
		m.Run(New(Config{Registry: m.Registry, Logger: m.Logger}).Run, follower.Run)
		f(t, m)
		m.End()
	})
}

func definition(plural, kind string, shortNames ...string) *apiextensionsv1.CustomResourceDefinition {
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + ".example.org"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.org", Scope: apiextensionsv1.ClusterScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Kind: kind, ShortNames: shortNames},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}},
			}},
		},
	}
}

// conditions are a definition's, as "Type=Status Reason".
func conditions(t *testing.T, m *test.Term, name string) []string {
	t.Helper()
	crd, ok := test.Get[*apiextensionsv1.CustomResourceDefinition](m, store.CustomResourceDefinitions, "", name)
	if !ok {
		return nil
	}
	var all []string
	for _, c := range crd.Status.Conditions {
		all = append(all, fmt.Sprintf("%s=%s %s", c.Type, c.Status, c.Reason))
	}
	slices.Sort(all)
	return all
}

func want(t *testing.T, m *test.Term, name string, want ...string) {
	t.Helper()
	time.Sleep(10 * time.Millisecond)
	if got := conditions(t, m, name); !slices.Equal(got, want) {
		t.Errorf("conditions of %s: %q, want %q", name, got, want)
	}
}

func TestNamesAreGivenOnce(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		test.Create(m, resource.CustomResourceDefinitions, definition("widgets", "Widget", "w"))
		want(t, m, "widgets.example.org", "Established=True InitialNamesAccepted", "NamesAccepted=True NoConflicts")
		test.Create(m, resource.CustomResourceDefinitions, definition("wheels", "Wheel", "w"))
		want(t, m, "wheels.example.org", "Established=False NotAccepted", "NamesAccepted=False ShortNamesConflict")
		test.Create(m, resource.CustomResourceDefinitions, definition("others", "Widget"))
		want(t, m, "others.example.org", "Established=False NotAccepted", "NamesAccepted=False ListKindConflict")

		m.Delete(resource.CustomResourceDefinitions, "", "widgets.example.org", metav1.DeleteOptions{})
		want(t, m, "widgets.example.org")
		// Whoever waited for a name has it now.
		want(t, m, "wheels.example.org", "Established=True InitialNamesAccepted", "NamesAccepted=True NoConflicts")
		want(t, m, "others.example.org", "Established=True InitialNamesAccepted", "NamesAccepted=True NoConflicts")
	})
}

func TestKubernetesOwnGroupsNeedApproval(t *testing.T) {
	for annotation, want := range map[string]string{
		"https://github.com/kubernetes/kubernetes/pull/1": "KubernetesAPIApprovalPolicyConformant=True ApprovedAnnotation",
		"unapproved, an experiment":                       "KubernetesAPIApprovalPolicyConformant=False UnapprovedAnnotation",
	} {
		crd := definition("widgets", "Widget")
		crd.Name, crd.Spec.Group = "widgets.example.k8s.io", "example.k8s.io"
		crd.Annotations = map[string]string{apiextensionsv1.KubeAPIApprovedAnnotation: annotation}
		status := plan(crd, []*apiextensionsv1.CustomResourceDefinition{crd})
		cond := apihelpers.FindCRDCondition(&apiextensionsv1.CustomResourceDefinition{Status: status}, apiextensionsv1.KubernetesAPIApprovalPolicyConformant)
		if cond == nil || fmt.Sprintf("%s=%s %s", cond.Type, cond.Status, cond.Reason) != want {
			t.Errorf("%q: %+v, want %s", annotation, cond, want)
		}
	}
}

// A definition waits for an object that waits for its finalizer, and takes no new
// ones meanwhile.
func TestDefinitionsGoAfterTheirObjects(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		test.Create(m, resource.CustomResourceDefinitions, definition("widgets", "Widget"))
		want(t, m, "widgets.example.org", "Established=True InitialNamesAccepted", "NamesAccepted=True NoConflicts")
		kind := m.Registry.Kind(schema.GroupResource{Group: "example.org", Resource: "widgets"})
		if kind == nil {
			t.Fatal("the kind is not served")
		}
		create := func(name string, finalizers ...string) error {
			obj := kind.Spec.New()
			obj.SetName(name)
			obj.SetFinalizers(finalizers)
			_, err := m.Registry.Create(context.Background(), kind, "", obj, resource.CreateOptions{})
			return err
		}
		if err := create("plain"); err != nil {
			t.Fatal(err)
		}
		if err := create("held", "example.org/wait"); err != nil {
			t.Fatal(err)
		}
		m.Delete(resource.CustomResourceDefinitions, "", "widgets.example.org", metav1.DeleteOptions{})
		want(t, m, "widgets.example.org", "Established=True InitialNamesAccepted", "NamesAccepted=True NoConflicts", "Terminating=True InstanceDeletionCheck")
		if err := create("late"); err == nil || err.Error() != `widgets.example.org "late" is forbidden: create not allowed while custom resource definition is terminating` {
			t.Errorf("create while terminating: %v, want it refused", err)
		}
		time.Sleep(time.Minute)
		if n := m.Registry.Store().View().Count("widgets.example.org/"); n != 1 {
			t.Errorf("%d objects left, want the one that is held", n)
		}
		_, _, err := m.Registry.Update(context.Background(), kind, "", "held", "", func(current store.Object) (store.Object, error) {
			current.(*unstructured.Unstructured).SetFinalizers(nil)
			return current, nil
		}, resource.UpdateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * recheck)
		want(t, m, "widgets.example.org")
		if m.Registry.Kind(schema.GroupResource{Group: "example.org", Resource: "widgets"}) != nil {
			t.Error("the kind is still served")
		}
	})
}

// An idle cluster writes nothing: what was judged once stays.
func TestEstablishedDefinitionsAreLeftAlone(t *testing.T) {
	in(t, func(t *testing.T, m *test.Term) {
		test.Create(m, resource.CustomResourceDefinitions, definition("widgets", "Widget"))
		want(t, m, "widgets.example.org", "Established=True InitialNamesAccepted", "NamesAccepted=True NoConflicts")
		before := m.Registry.Store().Revision()
		time.Sleep(time.Hour)
		if now := m.Registry.Store().Revision(); now != before {
			t.Errorf("%d writes in an idle hour, want none", now-before)
		}
	})
}
