package managedfields

import (
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"

	"github.com/musterhq/muster/control/kube"
)

// builtin has the schemas of k8s.io/api. Reading them takes time and memory that
// a control node without clients need not spend.
var builtin = sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(kube.Scheme) })

// Converter knows the schema of a built-in kind. For a kind that client-go has
// none for, lists are owned as a whole, as upstream has it for kinds without a
// schema.
func Converter(kind schema.GroupVersionKind) managedfields.TypeConverter {
	if obj, err := kube.Scheme.New(kind); err == nil {
		obj.GetObjectKind().SetGroupVersionKind(kind)
		if _, err := builtin().ObjectToTyped(obj); err == nil {
			return builtin()
		}
	}
	return managedfields.NewDeducedTypeConverter()
}
