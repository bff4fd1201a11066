package node

import (
	"cmp"
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Upstream's bounds on what a node says of its images, which only help to choose
// a node.
const (
	imagesMost = 50
	namesMost  = 5 // of one image
)

// listImages takes note of the images on this machine. What was said before stands
// while the runtime does not answer.
func (n *Node) listImages(ctx context.Context) {
	if n.cfg.Images == nil || time.Since(n.listed) < lookEvery {
		return
	}
	images, err := n.cfg.Images(ctx)
	if err != nil {
		return // the node's condition tells why
	}
	n.listed = time.Now()
	images = slices.DeleteFunc(images, func(i corev1.ContainerImage) bool { return len(i.Names) == 0 })
	for i := range images {
		names := slices.Sorted(slices.Values(images[i].Names))
		images[i].Names = names[:min(len(names), namesMost)]
	}
	slices.SortFunc(images, func(a, b corev1.ContainerImage) int {
		return cmp.Or(cmp.Compare(b.SizeBytes, a.SizeBytes), slices.Compare(a.Names, b.Names))
	})
	n.images = images[:min(len(images), imagesMost)]
}
