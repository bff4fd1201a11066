package garbage

import (
	"testing"
	"testing/synctest"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/controller/customresource"
	"github.com/musterhq/muster/control/custom"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store/storetest"
)

func definition() *apiextensionsv1.CustomResourceDefinition {
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "apps.example.org"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.org", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "apps", Kind: "App"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}},
			}},
		},
	}
}

// Operators rely on it: an object of a kind that users defined owns what was made
// for it. What could go wrong: nobody looks at a kind that was not there when the
// leader began, or an owner whose kind is gone by the time that somebody looks.
func TestCustomObjectsOwnAndAreOwned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		follower, err := custom.NewFollower(custom.Config{Store: m.Registry.Store(), Registry: m.Registry, Logger: m.Logger})
		if err != nil {
			t.Fatal(err)
		}
		m.Run(New(Config{Registry: m.Registry, Logger: m.Logger}).Run, follower.Run,
			customresource.New(customresource.Config{Registry: m.Registry, Logger: m.Logger}).Run)
		defer m.End()
		test.Create(m, resource.CustomResourceDefinitions, definition())
		time.Sleep(time.Second)
		kind := m.Registry.Kind(schema.GroupResource{Group: "example.org", Resource: "apps"})
		if kind == nil {
			t.Fatal("the kind is not served")
		}
		app := func(name string, owners ...metav1.OwnerReference) metav1.OwnerReference {
			obj := kind.Spec.New().(*unstructured.Unstructured)
			obj.SetNamespace("default")
			obj.SetName(name)
			obj.SetOwnerReferences(owners)
			created := test.Create(m, kind, obj)
			return metav1.OwnerReference{APIVersion: "example.org/v1", Kind: "App", Name: name, UID: created.GetUID()}
		}
		one, two := app("one"), app("two")
		app("of-one", one)
		test.Create(m, resource.Pods, owned("of-one", one))
		test.Create(m, resource.Pods, owned("of-two", two))
		foreground := metav1.DeletePropagationForeground
		m.Delete(kind, "default", "one", metav1.DeleteOptions{PropagationPolicy: &foreground})
		wantPods(t, m, "of-two")
		if n := m.Registry.Store().View().Count("apps.example.org/"); n != 1 {
			t.Errorf("%d objects, want only the other one left", n)
		}
		m.Delete(resource.CustomResourceDefinitions, "", "apps.example.org", metav1.DeleteOptions{})
		wantPods(t, m)
	})
}
