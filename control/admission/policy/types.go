package policy

import (
	"context"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"

	"github.com/musterhq/muster/control/kube"
)

// types know which lists of an object are sets or maps, for policies that apply
// a part of an object. It is upstream's patch.TypeConverterManager.
type types struct {
	builtin func() managedfields.TypeConverter
}

func newTypes() types {
	return types{builtin: sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(kube.Scheme) })}
}

func (t types) GetTypeConverter(kind schema.GroupVersionKind) managedfields.TypeConverter {
	if kube.Scheme.Recognizes(kind) {
		return t.builtin()
	}
	return managedfields.NewDeducedTypeConverter()
}

// Run has nothing to keep current.
func (types) Run(context.Context) {}
