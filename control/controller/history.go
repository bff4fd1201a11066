package controller

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/dump"

	"github.com/musterhq/muster/control/store"
)

// TemplateHash is upstream's, to the letter: names that are made of it, and labels of
// pods, stay as they are for a cluster's manifests. Collisions is how many times
// two templates of an owner were found to have the same, nil for none.
func TemplateHash(template *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%v", dump.ForHash(*template))
	if collisions != nil {
		b := make([]byte, 8)
		binary.LittleEndian.PutUint32(b, uint32(*collisions))
		h.Write(b)
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// TemplatePatch is a pod template as ControllerRevisions keep it: a patch that
// brings it back, which kubectl rollout undo applies. Equal templates have equal bytes.
func TemplatePatch(template *corev1.PodTemplateSpec) ([]byte, error) {
	raw, err := json.Marshal(template)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	fields["$patch"] = "replace"
	return json.Marshal(map[string]any{"spec": map[string]any{"template": fields}})
}

// Revisions are the ControllerRevisions that owner has, the oldest first, and those
// that it is to adopt or release.
func Revisions(cache *store.Cache[*appsv1.ControllerRevision], owner metav1.Object, selector labels.Selector) (owned, adopt, release []*appsv1.ControllerRevision) {
	deleting := owner.GetDeletionTimestamp() != nil
	for _, r := range cache.ByIndex(ByNamespace, owner.GetNamespace()) {
		ref := metav1.GetControllerOfNoCopy(r)
		matches := selector.Matches(labels.Set(r.Labels))
		switch {
		case ref == nil && matches && !deleting && r.DeletionTimestamp == nil:
			adopt = append(adopt, r)
		case ref == nil || ref.UID != owner.GetUID():
		case matches:
			owned = append(owned, r)
		case !deleting:
			release = append(release, r)
		}
	}
	slices.SortFunc(owned, func(a, b *appsv1.ControllerRevision) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	return owned, adopt, release
}

// ClaimedPods sorts the pods that owner keeps, and those in its namespace that nobody
// keeps, into its own, those to adopt, and those to release.
func ClaimedPods(owner metav1.Object, selector labels.Selector, kept, loose []*corev1.Pod) (own, adopt, release []*corev1.Pod) {
	deleting := owner.GetDeletionTimestamp() != nil
	for _, pod := range kept {
		if selector.Matches(labels.Set(pod.Labels)) {
			own = append(own, pod)
		} else if !deleting {
			release = append(release, pod)
		}
	}
	for _, pod := range loose {
		if !deleting && pod.DeletionTimestamp == nil && selector.Matches(labels.Set(pod.Labels)) {
			adopt = append(adopt, pod)
		}
	}
	return own, adopt, release
}

// SelectorOf selects nothing for an owner without a selector, or with an empty one,
// which would take everything.
func SelectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil || selector.Empty() {
		return labels.Nothing()
	}
	return selector
}
