package scheduler

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// What a container that requests no CPU or memory is taken to use when nodes
// are scored, as kube-scheduler does, so that such pods spread too. Filters
// take requests as they are.
const (
	scoredMilliCPU = 100
	scoredMemory   = 200 << 20
)

var scoredRequests = corev1.ResourceList{
	corev1.ResourceCPU:    *resource.NewMilliQuantity(scoredMilliCPU, resource.DecimalSI),
	corev1.ResourceMemory: *resource.NewQuantity(scoredMemory, resource.BinarySI),
}

// resources are amounts in the units that requests are compared in: thousandths
// of a core, bytes, and whole numbers for the rest. As a request it leaves pods
// at zero.
type resources struct {
	milliCPU, memory, storage, pods int64
	extended                        map[corev1.ResourceName]int64 // nil when there are none
}

func resourcesOf(list corev1.ResourceList) resources {
	var r resources
	for name, quantity := range list {
		switch name {
		case corev1.ResourceCPU:
			r.milliCPU = quantity.MilliValue()
		case corev1.ResourceMemory:
			r.memory = quantity.Value()
		case corev1.ResourceEphemeralStorage:
			r.storage = quantity.Value()
		case corev1.ResourcePods:
			r.pods = quantity.Value()
		default:
			if r.extended == nil {
				r.extended = make(map[corev1.ResourceName]int64)
			}
			r.extended[name] = quantity.Value()
		}
	}
	return r
}

// add changes r by o, sign times. It leaves o alone.
func (r *resources) add(o *resources, sign int64) {
	r.milliCPU += sign * o.milliCPU
	r.memory += sign * o.memory
	r.storage += sign * o.storage
	for name, value := range o.extended {
		if r.extended == nil {
			r.extended = make(map[corev1.ResourceName]int64)
		}
		r.extended[name] += sign * value
	}
}

// of is the amount of one.
func (r *resources) of(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return r.milliCPU
	case corev1.ResourceMemory:
		return r.memory
	case corev1.ResourceEphemeralStorage:
		return r.storage
	}
	return r.extended[name]
}

// key tells requests apart that filters could treat differently.
func (r *resources) key(b *strings.Builder) {
	for _, v := range [...]int64{r.milliCPU, r.memory, r.storage} {
		b.WriteString(strconv.FormatInt(v, 36))
		b.WriteByte(',')
	}
	for _, name := range slices.Sorted(maps.Keys(r.extended)) {
		b.WriteString(string(name))
		b.WriteByte('=')
		b.WriteString(strconv.FormatInt(r.extended[name], 36))
		b.WriteByte(',')
	}
}

// inPlace has a pod that was resized in place count what it holds and what it was
// promised, whichever is more.
var inPlace = resourcehelper.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}

// requestsOf sums what a pod asks for: the larger of its running containers
// (with restartable init containers) and of each step of its start, or what it asks
// for as a whole, and its overhead.
func requestsOf(pod *corev1.Pod) resources {
	return resourcesOf(resourcehelper.PodRequests(pod, inPlace))
}

// scoredOf is requestsOf with the defaults for scoring, CPU and memory only. A pod
// that asks for something as a whole gets a default only of what nobody in it asks for.
func scoredOf(pod *corev1.Pod) (milliCPU, memory int64) {
	of := inPlace
	of.NonMissingContainerRequests = scoredRequests
	if resourcehelper.IsPodLevelRequestsSet(pod) {
		asked := resourcehelper.PodRequests(pod, inPlace)
		of.NonMissingContainerRequests = maps.Clone(scoredRequests)
		maps.DeleteFunc(of.NonMissingContainerRequests, func(name corev1.ResourceName, _ resource.Quantity) bool {
			_, some := asked[name]
			return some
		})
	}
	list := resourcehelper.PodRequests(pod, of)
	cpu, mem := list[corev1.ResourceCPU], list[corev1.ResourceMemory]
	return cpu.MilliValue(), mem.Value()
}
