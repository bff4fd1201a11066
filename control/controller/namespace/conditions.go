package namespace

import (
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// content is what is left in a namespace: how many objects of each resource, and
// how many that each finalizer keeps.
type content struct {
	resources, finalizers map[string]int
}

func (c content) none() bool { return len(c.resources) == 0 }

// conditions tell users what a namespace waits for, in upstream's words.
func conditions(left content, failure error) []corev1.NamespaceCondition {
	describe := func(typ corev1.NamespaceConditionType, bad bool, badReason, badMessage, reason, message string) corev1.NamespaceCondition {
		if bad {
			return corev1.NamespaceCondition{Type: typ, Status: corev1.ConditionTrue, Reason: badReason, Message: badMessage}
		}
		return corev1.NamespaceCondition{Type: typ, Status: corev1.ConditionFalse, Reason: reason, Message: message}
	}
	return []corev1.NamespaceCondition{
		describe(corev1.NamespaceDeletionDiscoveryFailure, false, "", "", "ResourcesDiscovered", "All resources successfully discovered"),
		describe(corev1.NamespaceDeletionGVParsingFailure, false, "", "", "ParsedGroupVersions", "All legacy kube types successfully parsed"),
		describe(corev1.NamespaceDeletionContentFailure, failure != nil,
			"ContentDeletionFailed", fmt.Sprintf("Failed to delete all resource types: %v", failure),
			"ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
		describe(corev1.NamespaceContentRemaining, len(left.resources) > 0,
			"SomeResourcesRemain", "Some resources are remaining: "+enumerate(left.resources, "%s has %d resource instances"),
			"ContentRemoved", "All content successfully removed"),
		describe(corev1.NamespaceFinalizersRemaining, len(left.finalizers) > 0,
			"SomeFinalizersRemain", "Some content in the namespace has finalizers remaining: "+enumerate(left.finalizers, "%s in %d resource instances"),
			"ContentHasNoFinalizers", "All content-preserving finalizers finished"),
	}
}

func enumerate(counts map[string]int, format string) string {
	var parts []string
	for name, n := range counts {
		parts = append(parts, fmt.Sprintf(format, name, n))
	}
	sort.Strings(parts)
	return strings.Join(parts, ", ")
}

// merge sets conditions by type and says whether that changed anything.
func merge(status *corev1.NamespaceStatus, wanted []corev1.NamespaceCondition, now metav1.Time) (changed bool) {
next:
	for _, w := range wanted {
		w.LastTransitionTime = now
		for i := range status.Conditions {
			c := &status.Conditions[i]
			if c.Type != w.Type {
				continue
			}
			if c.Status == w.Status {
				w.LastTransitionTime = c.LastTransitionTime
			}
			changed = changed || c.Status != w.Status || c.Reason != w.Reason || c.Message != w.Message
			*c = w
			continue next
		}
		status.Conditions = append(status.Conditions, w)
		changed = true
	}
	return changed
}
