package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/storage/names"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// Keeper makes and deletes the pods of one kind of owners, with upstream's
// events about them. It remembers, for its term, the names of pods whose creation
// had no certain outcome: they are tried again under the same name, so that a
// write which took effect after all is not done twice.
type Keeper struct {
	registry *resource.Registry
	events   Source
	owners   *store.Spec
	present  func(namespace, name string) types.UID
	// Describe words an event about a pod that was created or deleted, or about the
	// error with which that failed. Set before use, or left as most controllers word it.
	Describe func(verb, pod string, owner store.Object, err error) string

	mu     sync.Mutex
	unsure map[types.UID][]string // by the UID of their owner
}

// NewKeeper makes a keeper for the owners that a cache shows.
func NewKeeper[T store.Object](registry *resource.Registry, events Source, owners *store.Spec, cache *store.Cache[T]) *Keeper {
	return &Keeper{
		registry: registry,
		events:   events,
		owners:   owners,
		present: func(namespace, name string) types.UID {
			if owner, ok := cache.Get(namespace, name); ok {
				return owner.GetUID()
			}
			return ""
		},
		Describe: func(verb, pod string, _ store.Object, err error) string {
			if err != nil {
				return map[string]string{"create": "Error creating: ", "delete": "Error deleting: "}[verb] + err.Error()
			}
			return map[string]string{"create": "Created pod: ", "delete": "Deleted pod: "}[verb] + pod
		},
		unsure: make(map[types.UID][]string),
	}
}

// Forget is called when an owner is gone.
func (k *Keeper) Forget(owner types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.unsure, owner)
}

// CreateMany makes n pods, in batches that double: when pods cannot be made, for
// lack of a quota say, one attempt finds out and not hundreds.
func (k *Keeper) CreateMany(ctx context.Context, owner store.Object, n int, pod func(i int) *corev1.Pod) error {
	var failed error
	for batch, next := 1, 0; next < n && failed == nil; batch *= 2 {
		end := min(next+batch, n)
		failed = each(end-next, func(i int) error { return k.Create(ctx, owner, pod(next+i)) })
		next = end
	}
	return failed
}

// Create makes a pod, under a name that is generated unless it has one. In a
// namespace that is being deleted nothing is made, and that is no error.
func (k *Keeper) Create(ctx context.Context, owner store.Object, pod *corev1.Pod) error {
	named, again := pod.Name != "", false
	if !named {
		if pod.Name, again = k.takeUnsure(owner.GetUID()); !again {
			pod.Name = names.SimpleNameGenerator.GenerateName(pod.GenerateName)
		}
	}
	_, err := k.registry.Create(ctx, resource.Pods, owner.GetNamespace(), pod, resource.CreateOptions{})
	switch {
	case err == nil:
		k.events.Event(k.owners, owner, corev1.EventTypeNormal, "SuccessfulCreate", k.Describe("create", pod.Name, owner, nil))
		return nil
	case apierrors.IsAlreadyExists(err):
		// Ours, if the attempt without an answer took effect. Otherwise the name
		// is somebody's, and the next attempt uses another.
		there, e := k.registry.Store().Table(store.Pods).Get(ctx, owner.GetNamespace(), pod.Name)
		if e == nil && (again || named) && metav1.IsControlledBy(there, owner) {
			return nil
		}
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // the owner goes the same way
	case !named && !definite(err):
		k.addUnsure(owner, pod.Name)
	}
	if ctx.Err() == nil {
		k.events.Event(k.owners, owner, corev1.EventTypeWarning, "FailedCreate", k.Describe("create", pod.Name, owner, err))
	}
	return fmt.Errorf("create pod: %w", err)
}

// definite says that a write was refused. Anything else, the log's errors that
// is, may have taken effect.
func definite(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status)
}

func (k *Keeper) takeUnsure(owner types.UID) (string, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	left := k.unsure[owner]
	if len(left) == 0 {
		return "", false
	}
	if k.unsure[owner] = left[1:]; len(left) == 1 {
		delete(k.unsure, owner)
	}
	return left[0], true
}

func (k *Keeper) addUnsure(owner store.Object, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	// Of an owner that is gone nothing is tried again.
	if k.present(owner.GetNamespace(), owner.GetName()) == owner.GetUID() {
		k.unsure[owner.GetUID()] = append(k.unsure[owner.GetUID()], name)
	}
}

// Delete deletes pods, each with the grace that it asks for.
func (k *Keeper) Delete(ctx context.Context, owner store.Object, pods []*corev1.Pod) error {
	return each(len(pods), func(i int) error {
		pod := pods[i]
		_, _, err := k.registry.Delete(ctx, resource.Pods, pod.Namespace, pod.Name,
			&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
		switch {
		case err == nil:
			k.events.Event(k.owners, owner, corev1.EventTypeNormal, "SuccessfulDelete", k.Describe("delete", pod.Name, owner, nil))
			return nil
		case apierrors.IsNotFound(err), apierrors.IsConflict(err):
			return nil // gone already, or another of that name
		}
		if ctx.Err() == nil {
			k.events.Event(k.owners, owner, corev1.EventTypeWarning, "FailedDelete", k.Describe("delete", pod.Name, owner, err))
		}
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	})
}

// Claim is Claim for pods.
func (k *Keeper) Claim(ctx context.Context, owner store.Object, adopt, release []*corev1.Pod, adopting func(*corev1.Pod)) error {
	return Claim(ctx, k.registry, owner, k.owners, resource.Pods, adopt, release, adopting)
}

// PodOf makes the pod that an owner's template describes, to be named after the
// owner.
func (k *Keeper) PodOf(owner store.Object, t *corev1.PodTemplateSpec) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace:       owner.GetNamespace(),
		GenerateName:    owner.GetName() + "-",
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, k.owners.Kind)},
	}}
	if t != nil {
		meta := t.ObjectMeta.DeepCopy()
		pod.Labels, pod.Annotations = meta.Labels, meta.Annotations
		pod.Finalizers = slices.Clone(meta.Finalizers)
		pod.Spec = *t.Spec.DeepCopy()
	}
	return pod
}
