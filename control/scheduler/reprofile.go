package scheduler

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// setProfiles takes over what profiles there are. Waiting pods of one that has
// changed are looked at anew; those of one that is new are taken up, the oldest first;
// those of one that is gone are left alone.
func (c *core) setProfiles(to *Profiles) {
	if c.cluster.profiles == to {
		return
	}
	c.cluster.profiles = to
	clear(c.cluster.keepers.known)
	var pods []*corev1.Pod
	for _, e := range c.queue.entries {
		if e.profile != to.of[e.pod.Spec.SchedulerName] {
			pods = append(pods, e.pod)
		}
	}
	for _, pod := range c.foreign {
		if c.cluster.wants(pod) {
			pods = append(pods, pod)
		}
	}
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, pod := range pods {
		c.setPod(pod)
	}
}

// freshen reads the waiting pods anew whose hard default spreading follows from
// services and controllers that have changed.
func (c *core) freshen() {
	stale := c.cluster.keepers.stale
	if len(stale) > 0 && c.cluster.profiles.hardDefaults {
		for _, e := range c.queue.entries {
			if _, ok := stale[e.pod.Namespace]; ok && e.profile.spread.hard && len(e.pod.Spec.TopologySpreadConstraints) == 0 {
				c.setPod(e.pod)
			}
		}
	}
	clear(stale)
}
