package statefulset

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// hashLabel is the hash of what a revision holds.
const hashLabel = "controller.kubernetes.io/hash"

// revisions are where a set comes from and where it goes.
type revisions struct{ current, update revision }

// revise makes sure that there is a revision of the present template, the newest, and
// finds the one that the set's pods are of so far. Without revisions there was a
// collision of names, which is noted in the status.
func (c *Controller) revise(ctx context.Context, set *appsv1.StatefulSet, owned []*appsv1.ControllerRevision) (*revisions, error) {
	patch, err := controller.TemplatePatch(&set.Spec.Template)
	if err != nil {
		return nil, fmt.Errorf("template: %w", err)
	}
	next := int64(1)
	if len(owned) > 0 {
		next = owned[len(owned)-1].Revision + 1
	}
	update := ""
	for i, r := range owned {
		if !bytes.Equal(r.Data.Raw, patch) {
			continue
		}
		update = r.Name
		if i == len(owned)-1 || bytes.Equal(owned[len(owned)-1].Data.Raw, patch) {
			continue
		}
		// Rolled back to: it becomes the newest.
		if err := controller.Change(ctx, c.registry, resource.ControllerRevisions, r, "", func(now *appsv1.ControllerRevision) bool {
			now.Revision = next
			return true
		}); err != nil {
			return nil, err
		}
	}
	if update == "" {
		if update, err = c.snapshot(ctx, set, patch, next); err != nil || update == "" {
			return nil, err
		}
	}
	revs := &revisions{update: revision{update, &set.Spec.Template}}
	revs.current = revs.update
	for _, r := range owned {
		if r.Name == set.Status.CurrentRevision && r.Name != update {
			template, err := templateOf(r)
			if err != nil {
				return nil, fmt.Errorf("revision %s: %w", r.Name, err)
			}
			revs.current = revision{r.Name, template}
		}
	}
	return revs, nil
}

// templateOf reads the template that a revision holds.
func templateOf(r *appsv1.ControllerRevision) (*corev1.PodTemplateSpec, error) {
	var held struct {
		Spec struct {
			Template corev1.PodTemplateSpec `json:"template"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(r.Data.Raw, &held); err != nil {
		return nil, err
	}
	return &held.Spec.Template, nil
}

// snapshot makes a revision and returns its name, "" when that is somebody else's.
func (c *Controller) snapshot(ctx context.Context, set *appsv1.StatefulSet, patch []byte, number int64) (string, error) {
	hash := revisionHash(patch, ptr.Deref(set.Status.CollisionCount, 0))
	r := &appsv1.ControllerRevision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: set.Namespace, Name: set.Name[:min(len(set.Name), 223)] + "-" + hash,
			Labels:          maps.Clone(set.Spec.Template.Labels),
			Annotations:     maps.Clone(set.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, store.StatefulSets.Kind)},
		},
		Data:     runtime.RawExtension{Raw: patch},
		Revision: number,
	}
	metav1.SetMetaDataLabel(&r.ObjectMeta, hashLabel, hash)
	_, err := c.registry.Create(ctx, resource.ControllerRevisions, set.Namespace, r, resource.CreateOptions{})
	switch {
	case err == nil:
		return r.Name, nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return "", nil
	case !apierrors.IsAlreadyExists(err):
		return "", fmt.Errorf("create revision %s: %w", r.Name, err)
	}
	there, err := store.Of[*appsv1.ControllerRevision](c.registry.Store(), store.ControllerRevisions).Get(ctx, set.Namespace, r.Name)
	if err != nil {
		return "", fmt.Errorf("revision %s: %w", r.Name, err)
	}
	if bytes.Equal(there.Data.Raw, patch) && metav1.IsControlledBy(there, set) {
		return r.Name, nil
	}
	return "", controller.Change(ctx, c.registry, resource.StatefulSets, set, "status", func(now *appsv1.StatefulSet) bool {
		now.Status.CollisionCount = ptr.To(ptr.Deref(set.Status.CollisionCount, 0) + 1)
		return true
	})
}

// revisionHash is upstream's, to the letter: pods are labelled with it.
func revisionHash(patch []byte, collisions int32) string {
	h := fnv.New32()
	h.Write(patch)
	h.Write([]byte(strconv.FormatInt(int64(collisions), 10)))
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// trimHistory deletes the oldest revisions that no pod is of and nobody asked to keep.
func (c *Controller) trimHistory(ctx context.Context, set *appsv1.StatefulSet, revs *revisions, owned []*appsv1.ControllerRevision, pods []*corev1.Pod) error {
	used := map[string]bool{revs.current.name: true, revs.update.name: true}
	for _, pod := range pods {
		used[pod.Labels[appsv1.StatefulSetRevisionLabel]] = true
	}
	var unused []*appsv1.ControllerRevision
	for _, r := range owned {
		if !used[r.Name] {
			unused = append(unused, r)
		}
	}
	for _, r := range unused[:max(0, len(unused)-int(ptr.Deref(set.Spec.RevisionHistoryLimit, 10)))] {
		if err := controller.Delete(ctx, c.registry, resource.ControllerRevisions, r); err != nil {
			return fmt.Errorf("revision %s: %w", r.Name, err)
		}
	}
	return nil
}
