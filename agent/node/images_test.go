package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
)

// A node says which images it has, the largest first, and says it again when
// another has come; while the runtime does not answer what was said stands.
func TestNodeTellsItsImages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		images := []corev1.ContainerImage{
			{Names: []string{"b", "a"}, SizeBytes: 1}, {SizeBytes: 99},
			{Names: []string{"f", "e", "d", "c", "b", "a"}, SizeBytes: 2}, {Names: []string{"a"}, SizeBytes: 1},
		}
		var broken error
		n := New(Config{Dir: t.TempDir(), Health: func(context.Context) Health { return Health{} }, Images: func(context.Context) ([]corev1.ContainerImage, error) {
			return slices.Clone(images), broken
		}})
		look := func() []corev1.ContainerImage {
			n.listed = n.listed.Add(-lookEvery)
			n.listImages(t.Context())
			return n.look(Health{}).Images
		}
		if got, want := fmt.Sprint(look()), "[{[a b c d e] 2} {[a] 1} {[a b] 1}]"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		images, broken = nil, errors.New("down")
		if got := look(); len(got) != 3 {
			t.Errorf("while the runtime is down: %v, want what was said before", got)
		}
		broken = nil
		for i := range 60 {
			images = append(images, corev1.ContainerImage{Names: []string{fmt.Sprint(i)}, SizeBytes: int64(i)})
		}
		if got := look(); len(got) != 50 || got[0].SizeBytes != 59 {
			t.Errorf("got %d images, the first of %d bytes; want the 50 largest", len(got), got[0].SizeBytes)
		}
	})
}
