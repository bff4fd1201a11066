package scheduler

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// imageLocality prefers nodes that have the pod's images already, by their size;
// less so the fewer nodes have them, so that one node does not draw all pods of
// an image to it.
type imageLocality struct{}

// Per image: what is smaller does not count, what is larger counts as that.
const (
	imageLeast = 23 << 20
	imageMost  = 1000 << 20
)

func (imageLocality) name() string          { return "ImageLocality" }
func (imageLocality) tells(p *podInfo) bool { return true }

func (imageLocality) scores(c *cluster, p *podInfo, nodes []*nodeInfo, scores []int64) []int64 {
	images := p.images()
	from, some := len(scores), false
	scores = append(scores, make([]int64, len(nodes))...)
	for _, image := range images {
		some = some || c.images[image] > 0
	}
	if !some {
		return scores
	}
	most := imageMost * int64(len(images))
	for i, n := range nodes {
		var sum int64
		for _, image := range images {
			if size, ok := n.images[image]; ok {
				spread := float64(c.images[image]) / float64(len(c.order))
				sum += int64(float64(size) * spread)
			}
		}
		sum = min(max(sum, imageLeast), most)
		scores[from+i] = scoreMax * (sum - imageLeast) / (most - imageLeast)
	}
	return scores
}

// images are those that the pod would have pulled, one for each use.
func (p *podInfo) images() []string {
	spec := &p.pod.Spec
	images := make([]string, 0, len(spec.InitContainers)+len(spec.Containers))
	for i := range spec.InitContainers {
		images = append(images, fullImageName(spec.InitContainers[i].Image))
	}
	for i := range spec.Containers {
		images = append(images, fullImageName(spec.Containers[i].Image))
	}
	for i := range spec.Volumes {
		if image := spec.Volumes[i].Image; image != nil {
			images = append(images, fullImageName(image.Reference))
		}
	}
	return images
}

// fullImageName adds the tag that is meant when there is none, as runtimes
// report it.
func fullImageName(name string) string {
	if strings.LastIndexByte(name, ':') <= strings.LastIndexByte(name, '/') {
		name += ":latest"
	}
	return name
}

// setImages takes over which images a node has.
func (c *cluster) setImages(n *nodeInfo, images []corev1.ContainerImage) {
	for name := range n.images {
		count(c.images, name, -1)
	}
	n.images = nil
	for i := range images {
		for _, name := range images[i].Names {
			if n.images == nil {
				n.images = make(map[string]int64)
			}
			if _, twice := n.images[name]; !twice {
				count(c.images, name, 1)
			}
			n.images[name] = images[i].SizeBytes
		}
	}
}
