package replication

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/controller"
)

// Outlook is that of a replica set or replication controller which wants so many
// pods and has those given. Its template only counts for pods that are made.
func Outlook(name string, want int, has []*corev1.Pod, like *corev1.Pod, now time.Time) controller.Outlook {
	has = Ranked(has, now)
	surplus := max(0, len(has)-want)
	return controller.Outlook{Stay: has[surplus:], Leave: has[:surplus], Come: controller.Others(like, name, want-len(has))}
}

// Ranked are the pods of one set, those first that go first.
func Ranked(pods []*corev1.Pod, now time.Time) []*corev1.Pod {
	pods = slices.Clone(pods)
	rank(pods, pods, now)
	return pods
}
