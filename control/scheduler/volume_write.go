package scheduler

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const volumeWriters = 8

// volumeWrites stores what was decided about pods' claims: a volume's claim, or for
// a claim the node where its volume is to be made. The binder of volumes does the
// rest, and caches show it.
type volumeWrites struct {
	scheduler *Scheduler
	loop      *controller.Loop[types.UID]

	mu      sync.Mutex
	waiting map[types.UID]*volumeWrite // pods that wait for volumes
	done    []outcome
}

type volumeWrite struct {
	decision
	stored bool
}

func newVolumeWrites(s *Scheduler) *volumeWrites {
	w := &volumeWrites{scheduler: s, waiting: map[types.UID]*volumeWrite{}}
	w.loop = controller.NewLoop("scheduler-volumes", volumeWriters, s.log, w.write)
	return w
}

// add never waits.
func (w *volumeWrites) add(d decision) {
	w.mu.Lock()
	w.waiting[d.entry.pod.UID] = &volumeWrite{decision: d}
	w.mu.Unlock()
	w.loop.Add(d.entry.pod.UID)
}

// forget is told that a pod does not wait any more.
func (w *volumeWrites) forget(d decision) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if there := w.waiting[d.entry.pod.UID]; there != nil && there.attempt == d.attempt {
		delete(w.waiting, d.entry.pod.UID)
	}
}

// take empties the box of writes that are done.
func (w *volumeWrites) take() []outcome {
	w.mu.Lock()
	defer w.mu.Unlock()
	done := w.done
	w.done = nil
	return done
}

// write stores what was decided for a pod, and comes again when that has had its time.
func (w *volumeWrites) write(ctx context.Context, uid types.UID) error {
	w.mu.Lock()
	task := w.waiting[uid]
	var d decision
	late := false
	if task != nil {
		d, late = task.decision, task.stored
	}
	w.mu.Unlock()
	if task == nil {
		return nil
	}
	err := fmt.Errorf("%w: context deadline exceeded", errVolumes)
	if !late {
		if err = w.store(ctx, d); ctx.Err() != nil {
			return ctx.Err()
		}
	}
	w.mu.Lock()
	task.stored = true
	w.done = append(w.done, outcome{d, err})
	w.mu.Unlock()
	w.scheduler.inbox.ring()
	if err == nil {
		w.loop.AddAfter(uid, d.patience)
	}
	return nil
}

// store writes volumes first: they may be somebody else's by now.
func (w *volumeWrites) store(ctx context.Context, d decision) error {
	for _, made := range []bool{false, true} {
		for key, c := range d.volumes {
			if (c.volume == "") != made {
				continue
			}
			namespace, name, _ := strings.Cut(key, "/")
			claim, ok := w.scheduler.caches.PersistentVolumeClaims.Get(namespace, name)
			if !ok {
				return fmt.Errorf("%w: persistentvolumeclaim %q not found", errVolumes, key)
			}
			var err error
			if made {
				err = w.selectNode(ctx, claim, c.node)
			} else {
				err = w.claim(ctx, c.volume, claim)
			}
			if err != nil && !errors.Is(err, errNothing) {
				return err
			}
		}
	}
	return nil
}

// errNothing: what is to be written is stored already.
var errNothing = errors.New("nothing to write")

// claim makes a volume a claim's.
func (w *volumeWrites) claim(ctx context.Context, name string, claim *corev1.PersistentVolumeClaim) error {
	kind := resource.PersistentVolumes
	_, _, err := w.scheduler.registry.Update(ctx, kind, "", name, "", func(current store.Object) (store.Object, error) {
		v := current.(*corev1.PersistentVolume)
		if v.Spec.ClaimRef != nil && !volume.IsVolumeBoundToClaim(v, claim) || v.DeletionTimestamp != nil {
			return nil, apierrors.NewConflict(kind.Spec.Resource, name, errors.New("the volume is another claim's by now"))
		}
		bound, differs, err := volume.GetBindVolumeToClaim(v, claim)
		if err != nil {
			return nil, err
		}
		if !differs {
			return nil, errNothing
		}
		return bound, nil
	}, resource.UpdateOptions{})
	return err
}

// selectNode has a claim's volume made for a node.
func (w *volumeWrites) selectNode(ctx context.Context, claim *corev1.PersistentVolumeClaim, node string) error {
	kind := resource.PersistentVolumeClaims
	_, _, err := w.scheduler.registry.Update(ctx, kind, claim.Namespace, claim.Name, "", func(current store.Object) (store.Object, error) {
		now := current.(*corev1.PersistentVolumeClaim)
		switch selected := now.Annotations[volume.AnnSelectedNode]; {
		case now.UID != claim.UID, selected != "" && selected != node, selected == "" && now.Spec.VolumeName != "":
			return nil, apierrors.NewConflict(kind.Spec.Resource, claim.Name, errors.New("it was decided otherwise about the claim"))
		case selected == node:
			return nil, errNothing
		}
		metav1.SetMetaDataAnnotation(&now.ObjectMeta, volume.AnnSelectedNode, node)
		return now, nil
	}, resource.UpdateOptions{})
	return err
}
