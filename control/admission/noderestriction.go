package admission

import (
	"context"
	"errors"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/musterhq/muster/control/resource"
)

// nodeRestriction keeps a node to the status, where package auth lets it write
// one. Status updates carry the object's metadata along: with its own labels a
// node that was taken over would draw the pods that select them, and with those
// of a pod take it from its controller.
type nodeRestriction struct{}

func (nodeRestriction) Admit(context.Context, *resource.Attributes) error { return nil }

func (nodeRestriction) Validate(_ context.Context, a *resource.Attributes) error {
	if a.Operation != resource.Update || a.User == nil || a.OldObject == nil ||
		!strings.HasPrefix(a.User.GetName(), "system:node:") || !slices.Contains(a.User.GetGroups(), user.NodesGroup) {
		return nil
	}
	now, err := meta.Accessor(a.Object)
	if err != nil {
		return err
	}
	old, err := meta.Accessor(a.OldObject)
	if err != nil {
		return err
	}
	if !equality.Semantic.DeepEqual(now.GetLabels(), old.GetLabels()) ||
		!equality.Semantic.DeepEqual(now.GetAnnotations(), old.GetAnnotations()) ||
		!equality.Semantic.DeepEqual(now.GetFinalizers(), old.GetFinalizers()) ||
		!equality.Semantic.DeepEqual(now.GetOwnerReferences(), old.GetOwnerReferences()) {
		return a.Forbidden(errors.New("a node may change the status alone, not metadata"))
	}
	return nil
}
