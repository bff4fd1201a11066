// Package kube is what Muster takes from Kubernetes itself and would not write
// better: the scheme and its codecs, defaulting, conversion, validation and the
// columns of kubectl get. It is the only importer of k8s.io/kubernetes, so that
// an upgrade is this package's compile errors. It stores nothing and knows
// nothing of requests; the order in which a write goes through these steps is
// package resource's business.
//
// Everything here takes and returns versioned objects (k8s.io/api). Upstream's
// rules are written for internal ones; the way there and back stays inside.
package kube

import (
	"fmt"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"k8s.io/kubernetes/pkg/capabilities"

	// Each group registers its types, defaults, conversions and declarative
	// validation with the scheme.
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
)

var (
	// Scheme knows every kind served, versioned and internal.
	Scheme = legacyscheme.Scheme
	// Codecs negotiates JSON, YAML and protobuf; each SerializerInfo carries a
	// strict decoder. Decode with the serializer itself: the codecs that convert
	// would give internal objects, which stay inside this package.
	Codecs = legacyscheme.Codecs
	// ParameterCodec reads query parameters into option kinds: list options, log
	// and exec options.
	ParameterCodec = legacyscheme.ParameterCodec
)

func init() {
	// What privileged pods may run where is for pod security to say, by namespace.
	capabilities.Setup(true, 0)
	// Tables and partial metadata are answered by every kind.
	if err := metav1.AddMetaToScheme(Scheme); err != nil {
		panic(fmt.Sprintf("registering meta.k8s.io: %v", err))
	}
}

// Default fills in what the user of a versioned object left out.
func Default(obj runtime.Object) { Scheme.Default(obj) }

// Normalize takes obj through its internal form and back, as upstream does by
// decoding and encoding: a node's podCIDR and podCIDRs agree afterwards, a
// secret's stringData is in its data. Other aliases are Default's business. A
// kind without an internal form is left as it is.
func Normalize(obj runtime.Object) error {
	kinds, _, err := Scheme.ObjectKinds(obj)
	if err != nil {
		return err
	}
	kind := kinds[0]
	if !Scheme.Recognizes(schema.GroupVersionKind{Group: kind.Group, Version: runtime.APIVersionInternal, Kind: kind.Kind}) {
		return nil
	}
	in, err := Scheme.UnsafeConvertToVersion(obj, runtime.InternalGroupVersioner)
	if err != nil {
		return err
	}
	// What the internal form has no place for must not stay: a secret's stringData.
	written := obj.GetObjectKind().GroupVersionKind()
	reflect.ValueOf(obj).Elem().SetZero()
	obj.GetObjectKind().SetGroupVersionKind(written)
	return Scheme.Convert(in, obj, nil)
}

// Convert makes an object of another version, or of another group that has the
// same kind, from obj. The two may share memory.
func Convert(obj runtime.Object, to schema.GroupVersion) (runtime.Object, error) {
	in, err := Scheme.UnsafeConvertToVersion(obj, runtime.InternalGroupVersioner)
	if err != nil {
		return nil, err
	}
	return Scheme.UnsafeConvertToVersion(in, to)
}

// FieldSelector checks the fields that selector asks about against those that
// the kind offers and gives each its current name. An error is the user's.
func FieldSelector(kind schema.GroupVersionKind, selector fields.Selector) (fields.Selector, error) {
	return selector.Transform(func(label, value string) (string, string, error) {
		return Scheme.ConvertFieldLabel(kind, label, value)
	})
}

// internal gives obj's internal form. The two share memory, so whoever changes
// one must own both.
func internal[I runtime.Object](obj runtime.Object) I {
	out, err := Scheme.UnsafeConvertToVersion(obj, runtime.InternalGroupVersioner)
	if err != nil {
		// The pairs that this package converts are registered by the imports
		// above; only a kind missing there gets here.
		panic(fmt.Sprintf("kube: %T has no internal form: %v", obj, err))
	}
	return out.(I)
}

// external writes an internal object back into its versioned form.
func external(in, out runtime.Object) {
	if err := Scheme.Convert(in, out, nil); err != nil {
		panic(fmt.Sprintf("kube: %T does not become %T: %v", in, out, err))
	}
}
