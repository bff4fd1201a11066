package hook

import (
	"fmt"
	"reflect"
	"slices"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
)

// Kinds are those that are served now, each version of a kind by itself.
type Kinds func() []*resource.Kind

// Objects makes, converts and completes objects for hooks: a hook may ask for
// another version than the one that a request names. It is upstream's
// admission.ObjectInterfaces.
type Objects struct {
	kinds Kinds
	known *atomic.Pointer[known]
}

// known is what was learned of kinds, which come and go.
type known struct {
	kinds       []*resource.Kind
	equivalents runtime.EquivalentResourceRegistry
}

var _ admission.ObjectInterfaces = Objects{}

// NewObjects knows the kinds of the moment.
func NewObjects(kinds Kinds) Objects { return Objects{kinds, &atomic.Pointer[known]{}} }

func (o Objects) GetObjectCreater() runtime.ObjectCreater     { return creater{} }
func (o Objects) GetObjectTyper() runtime.ObjectTyper         { return kube.Scheme }
func (o Objects) GetObjectDefaulter() runtime.ObjectDefaulter { return defaulter{o.kinds} }
func (o Objects) GetObjectConvertor() runtime.ObjectConvertor { return convertor{kube.Scheme} }

// GetEquivalentResourceMapper tells which resources show the same objects.
func (o Objects) GetEquivalentResourceMapper() runtime.EquivalentResourceMapper {
	kinds := o.kinds()
	if k := o.known.Load(); k != nil && slices.Equal(k.kinds, kinds) {
		return k.equivalents
	}
	k := &known{kinds: kinds, equivalents: runtime.NewEquivalentResourceRegistry()}
	for _, kind := range kinds {
		k.equivalents.RegisterKindFor(kind.GroupVersionResource(), "", kind.Spec.Kind)
		for _, s := range kind.Subresources {
			k.equivalents.RegisterKindFor(kind.GroupVersionResource(), s.Name, s.Kind)
		}
	}
	o.known.Store(k)
	return k.equivalents
}

// defaulter fills in what a hook left out. What it put into an object of a custom
// kind that the kind does not know is dropped, as decoding drops it of Go types;
// metadata that is wrong is for validation to refuse.
type defaulter struct{ kinds Kinds }

func (d defaulter) Default(obj runtime.Object) {
	custom, ok := obj.(*unstructured.Unstructured)
	if !ok {
		kube.Scheme.Default(obj)
		return
	}
	for _, kind := range d.kinds() {
		if kind.Spec.Kind == custom.GroupVersionKind() {
			_, _ = kind.Schema.Coerce(custom, false)
			kind.Default(custom)
			return
		}
	}
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

// Convert makes out from in. Two of one Go type share memory afterwards: hooks
// replace objects, and never change parts of them. A custom object's versions
// differ in what they are called only, as far as hooks are concerned.
func (c convertor) Convert(in, out, context any) error {
	if content, ok := in.(runtime.Unstructured); ok {
		if target, ok := out.(runtime.Unstructured); ok {
			target.SetUnstructuredContent(runtime.DeepCopyJSON(content.UnstructuredContent()))
			return nil
		}
	}
	from, to := reflect.ValueOf(in), reflect.ValueOf(out)
	if from.Type() == to.Type() && from.Kind() == reflect.Pointer {
		to.Elem().Set(from.Elem())
		return nil
	}
	// Between two versions Kubernetes goes by the internal one.
	internal, err := kube.Scheme.ConvertToVersion(in.(runtime.Object), runtime.InternalGroupVersioner)
	if err != nil {
		return fmt.Errorf("convert a %T: %w", in, err)
	}
	return kube.Scheme.Convert(internal, out, context)
}
