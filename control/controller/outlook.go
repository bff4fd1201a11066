package controller

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Outlook is what a controller would do about an object's pods, were the object
// stored as it is given: whoever plans finds out where the pods would go. Controllers
// work it out by the rules that they go by themselves; caches are not changed.
type Outlook struct {
	// Stay are pods that are kept. Leave go whatever becomes of the others.
	Stay, Leave []*corev1.Pod
	// Old give way to Come, those first that are missed least, as far as Surge and
	// Unavailable let them: so many pods beyond those wanted, and so many too few.
	Old []*corev1.Pod
	// Come are the pods to make, in this order.
	Come               []Coming
	Surge, Unavailable int
	// Ordered: a pod that finds no place keeps those after it from being made.
	Ordered bool
	// Notes are what users should know besides.
	Notes []string
}

// Coming is a pod that would be made, with the claims that would be made for it.
type Coming struct {
	Pod    *corev1.Pod
	Claims []*corev1.PersistentVolumeClaim
	// Of is the pod whose place it takes: on its node, or with its name; nil for none.
	Of *corev1.Pod
}

// Want is how many pods there would be in the end.
func (o *Outlook) Want() int { return len(o.Stay) + len(o.Come) }

// Another is one more pod like a given one.
func Another(like *corev1.Pod, name string) *corev1.Pod {
	pod := like.DeepCopy()
	pod.Name, pod.UID = name, types.UID("outlook-"+pod.Namespace+"-"+name)
	return pod
}

// Others are so many such pods.
func Others(like *corev1.Pod, prefix string, count int) []Coming {
	coming := make([]Coming, max(0, count))
	for i := range coming {
		coming[i].Pod = Another(like, fmt.Sprint(prefix, "-", i))
	}
	return coming
}

// ActivePods are those of an owner that count.
func (c *Caches) ActivePods(owner types.UID) (pods []*corev1.Pod) {
	for _, p := range c.Pods.ByIndex(ByController, string(owner)) {
		if IsActive(p) {
			pods = append(pods, p)
		}
	}
	return pods
}
