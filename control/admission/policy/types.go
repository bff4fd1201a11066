package policy

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime/schema"
	upstream "k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/musterhq/muster/control/managedfields"
)

// types know which lists of an object are sets or maps, for policies that apply
// a part of an object. It is upstream's patch.TypeConverterManager.
type types struct{}

func (types) GetTypeConverter(kind schema.GroupVersionKind) upstream.TypeConverter {
	return managedfields.Converter(kind)
}

// Run has nothing to keep current.
func (types) Run(context.Context) {}
