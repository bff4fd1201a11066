package hook

import (
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
)

// Kinds are those that are served now.
type Kinds func() []*resource.Kind

// Objects makes, converts and completes objects for hooks: a hook may ask for
// another version than the one that a request names. It is upstream's
// admission.ObjectInterfaces.
type Objects struct {
	equivalents runtime.EquivalentResourceRegistry
}

var _ admission.ObjectInterfaces = Objects{}

// NewObjects knows all kinds.
func NewObjects(kinds []*resource.Kind) Objects {
	o := Objects{equivalents: runtime.NewEquivalentResourceRegistry()}
	for _, kind := range kinds {
		o.equivalents.RegisterKindFor(kind.GroupVersionResource(), "", kind.Spec.Kind)
		for _, s := range kind.Subresources {
			o.equivalents.RegisterKindFor(kind.GroupVersionResource(), s.Name, s.Kind)
		}
	}
	return o
}

func (o Objects) GetObjectCreater() runtime.ObjectCreater     { return creater{} }
func (o Objects) GetObjectTyper() runtime.ObjectTyper         { return kube.Scheme }
func (o Objects) GetObjectDefaulter() runtime.ObjectDefaulter { return kube.Scheme }
func (o Objects) GetObjectConvertor() runtime.ObjectConvertor { return convertor{kube.Scheme} }
func (o Objects) GetEquivalentResourceMapper() runtime.EquivalentResourceMapper {
	return o.equivalents
}

// creater makes objects that are not Go types as trees.
type creater struct{}

func (creater) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	if kube.Scheme.Recognizes(kind) {
		return kube.Scheme.New(kind)
	}
	obj := &unstructured.Unstructured{}
	obj.SetGroupVersionKind(kind)
	return obj, nil
}

// convertor converts between versions, and copies within one.
type convertor struct{ runtime.ObjectConvertor }

// Convert makes out from in. The two may share memory afterwards: hooks replace
// objects, and never change parts of them.
func (c convertor) Convert(in, out, context any) error {
	from, to := reflect.ValueOf(in), reflect.ValueOf(out)
	if from.Type() == to.Type() && from.Kind() == reflect.Pointer {
		to.Elem().Set(from.Elem())
		return nil
	}
	if content, ok := in.(runtime.Unstructured); ok {
		if target, ok := out.(runtime.Unstructured); ok {
			target.SetUnstructuredContent(content.UnstructuredContent())
			return nil
		}
	}
	// Between two versions Kubernetes goes by the internal one.
	internal, err := kube.Scheme.ConvertToVersion(in.(runtime.Object), runtime.InternalGroupVersioner)
	if err != nil {
		return fmt.Errorf("convert a %T: %w", in, err)
	}
	return kube.Scheme.Convert(internal, out, context)
}
