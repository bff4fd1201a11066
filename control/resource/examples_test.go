package resource

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

// examples are an object of each kind that its rules accept, called x unless
// the kind demands another name.
func examples() map[*Kind]store.Object {
	all := map[*Kind]store.Object{}
	for _, family := range []map[*Kind]store.Object{coreExamples(), appsExamples(), admissionExamples()} {
		maps.Copy(all, family)
	}
	return all
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func coreExamples() map[*Kind]store.Object {
	return map[*Kind]store.Object{
		Events:                 newEvent("x"),
		Namespaces:             &corev1.Namespace{ObjectMeta: named("x")},
		Nodes:                  newNode("x"),
		Pods:                   newPod("x"),
		ReplicationControllers: newRC("x", 1),
	}
}
