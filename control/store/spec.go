package store

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/fsm/kv"
)

// Object is a pointer to a Kubernetes API type that is stored: *v1.Pod and so
// on, which are Messages, or *unstructured.Unstructured for a kind that users
// defined.
type Object interface {
	runtime.Object
	metav1.Object
}

// Message is an object that becomes bytes as Kubernetes' protobuf.
type Message interface {
	Object
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// Codec is how objects become bytes where it is not by their own Marshal.
type Codec interface {
	// Encode returns an object's bytes. The object has no resourceVersion, and is
	// not to be changed.
	Encode(obj Object) ([]byte, error)
	// Decode returns what an item holds, as an object that is the caller's own.
	Decode(item *kv.Item) (Object, error)
	// Fields are the item's selectable fields. They are asked for when something
	// is selected by them, because which there are may change at any time.
	Fields(item *kv.Item) fields.Set
}

// Spec says how one kind is stored.
type Spec struct {
	Resource   schema.GroupResource
	Kind       schema.GroupVersionKind // the version of the objects
	Namespaced bool
	New        func() Object
	NewList    func() runtime.Object
	// Fields are what field selectors may ask beside metadata.name and
	// metadata.namespace. Empty values need not be there. nil: none.
	Fields func(Object) map[string]string
	// Sealed says that values are encrypted on their way into the log. Labels and
	// Fields stay readable. Once a kind is sealed it stays so.
	Sealed bool
	// Codec, for kinds whose objects are not stored as they are: they are no
	// Messages, or are stored in another version. Their bytes are not protobuf of
	// this kind, so nobody may pass those on.
	Codec Codec
}

// Prefix is what the keys of a namespace's objects begin with, or, for
// namespace "", those of all: "pods/default/", "replicasets.apps/".
func (s *Spec) Prefix(namespace string) string {
	prefix := s.Resource.String() + "/"
	if namespace != "" {
		prefix += namespace + "/"
	}
	return prefix
}

// Key is where an object is stored: "pods/default/web", "nodes/n1".
func (s *Spec) Key(namespace, name string) (string, error) {
	switch {
	case name == "" || strings.Contains(name, "/"):
		return "", fmt.Errorf("%w: %s with the name %q", ErrInvalid, s.Resource, name)
	case s.Namespaced && namespace == "":
		return "", fmt.Errorf("%w: %s %q without a namespace", ErrInvalid, s.Resource, name)
	case !s.Namespaced && namespace != "":
		return "", fmt.Errorf("%w: %s %q in namespace %q, but they are in none", ErrInvalid, s.Resource, name, namespace)
	case strings.Contains(namespace, "/"):
		return "", fmt.Errorf("%w: %s in the namespace %q", ErrInvalid, s.Resource, namespace)
	}
	return s.Prefix(namespace) + name, nil
}

// SplitKey is the reverse of Key.
func (s *Spec) SplitKey(key string) (namespace, name string) {
	rest := strings.TrimPrefix(key, s.Resource.String()+"/")
	if !s.Namespaced {
		return "", rest
	}
	namespace, name, _ = strings.Cut(rest, "/")
	return namespace, name
}
