package managedfields

import (
	"bytes"
	"reflect"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// equalScalars says that two values are the same in JSON.
func equalScalars(s *shape, old, new reflect.Value) bool {
	a, b := content(old), content(new)
	if !a.IsValid() || !b.IsValid() {
		return a.IsValid() == b.IsValid()
	}
	if s.converts {
		return equalConverted(pointer(a), pointer(b))
	}
	switch a.Kind() {
	case reflect.String:
		return a.String() == b.String()
	case reflect.Bool:
		return a.Bool() == b.Bool()
	case reflect.Slice:
		return bytes.Equal(a.Bytes(), b.Bytes())
	case reflect.Float32, reflect.Float64:
		return a.Float() == b.Float()
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return a.Uint() == b.Uint()
	}
	return a.Int() == b.Int()
}

// equalConverted compares two values that have a JSON form of their own, by
// pointers to them.
func equalConverted(a, b any) bool {
	switch a := a.(type) {
	case *metav1.Time:
		b := b.(*metav1.Time)
		return a.IsZero() == b.IsZero() && a.Unix() == b.Unix()
	case *resource.Quantity:
		// Copies: a quantity keeps its text once it was asked for.
		p, q := *a, *b.(*resource.Quantity)
		return p == q || p.String() == q.String()
	case *intstr.IntOrString:
		b := b.(*intstr.IntOrString)
		return *a == *b || a.Type == b.Type && a.String() == b.String()
	}
	return equalValues(a, b)
}

// equalWholes says that two values which are owned as one are the same in JSON.
func equalWholes(old, new reflect.Value) bool {
	a, b := content(old), content(new)
	if !a.IsValid() || !b.IsValid() {
		return a.IsValid() == b.IsValid()
	}
	p, q := pointer(a), pointer(b)
	return reflect.DeepEqual(p, q) || equalValues(p, q)
}

// equalValues is upstream's comparison, of what two pointers point to.
func equalValues(a, b any) bool {
	p, err := value.NewValueReflect(a)
	if err != nil {
		return false
	}
	q, err := value.NewValueReflect(b)
	return err == nil && value.Equals(p, q)
}

func pointer(v reflect.Value) any {
	if v.CanAddr() {
		return v.Addr().Interface()
	}
	p := reflect.New(v.Type())
	p.Elem().Set(v)
	return p.Interface()
}
