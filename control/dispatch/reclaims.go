package dispatch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/fsm/kv"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// reclaims follows the volumes of the local replica for those whose directories
// are to be deleted, by the node that they are on. It keeps nothing of the others.
type reclaims struct {
	table   *store.Table
	changed func(node string)

	mu     sync.Mutex
	byNode map[string]map[string]*agentv1.ReclaimVolume // then by the volume's key
	nodeOf map[string]string                            // by the volume's key
}

func newReclaims(s *store.Store, changed func(node string)) *reclaims {
	return &reclaims{
		table: s.Table(store.PersistentVolumes), changed: changed,
		byNode: map[string]map[string]*agentv1.ReclaimVolume{}, nodeOf: map[string]string{},
	}
}

// Run lists and follows until ctx ends; after a gap in the history it lists again.
func (r *reclaims) Run(ctx context.Context) error {
	for {
		err := r.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, store.ErrExpired) {
			return err
		}
	}
}

func (r *reclaims) follow(ctx context.Context) error {
	page, err := r.table.List(ctx, store.ListOptions{})
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(page.Items))
	for _, item := range page.Items {
		there[item.Key] = true
		if err := r.put(item); err != nil {
			return err
		}
	}
	r.mu.Lock()
	for key := range maps.Clone(r.nodeOf) {
		if !there[key] {
			r.drop(key)
		}
	}
	r.mu.Unlock()
	watch, err := r.table.Watch(ctx, store.WatchOptions{After: page.Revision})
	if err != nil {
		return err
	}
	for {
		events, _, err := watch.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Type == apiwatch.Deleted {
				r.mu.Lock()
				r.drop(e.Item.Key)
				r.mu.Unlock()
			} else if err := r.put(e.Item); err != nil {
				return err
			}
		}
	}
}

func (r *reclaims) put(item *kv.Item) error {
	obj, err := store.Decode(store.PersistentVolumes, item)
	if err != nil {
		return err
	}
	v := obj.(*corev1.PersistentVolume)
	node, path, ok := resource.ReclaimedDirectory(v)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !ok {
		r.drop(item.Key)
		return nil
	}
	if old := r.byNode[node][item.Key]; old != nil && old.Uid == string(v.UID) {
		return nil
	}
	r.drop(item.Key)
	if r.byNode[node] == nil {
		r.byNode[node] = map[string]*agentv1.ReclaimVolume{}
	}
	r.byNode[node][item.Key] = &agentv1.ReclaimVolume{Name: v.Name, Uid: string(v.UID), Path: path}
	r.nodeOf[item.Key] = node
	r.changed(node)
	return nil
}

// drop runs with mu held.
func (r *reclaims) drop(key string) {
	node, ok := r.nodeOf[key]
	if !ok {
		return
	}
	delete(r.nodeOf, key)
	delete(r.byNode[node], key)
	if len(r.byNode[node]) == 0 {
		delete(r.byNode, node)
	}
	r.changed(node)
}

// of are the volumes to reclaim on a node, by name.
func (r *reclaims) of(node string) map[string]*agentv1.ReclaimVolume {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make(map[string]*agentv1.ReclaimVolume, len(r.byNode[node]))
	for _, v := range r.byNode[node] {
		all[v.Name] = v
	}
	return all
}

// sendReclaims tells the agent each volume once.
func (s *session) sendReclaims() error {
	now := s.d.reclaims.of(s.node)
	for name := range s.reclaiming {
		if now[name] == nil {
			delete(s.reclaiming, name)
		}
	}
	for name, v := range now {
		if s.reclaiming[name] == v.Uid {
			continue
		}
		s.reclaiming[name] = v.Uid
		if err := s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_ReclaimVolume{ReclaimVolume: v}}); err != nil {
			return err
		}
	}
	return nil
}

// errStays: the volume is not one whose directory is to be deleted, or not on that node.
var errStays = errors.New("the volume is not to be reclaimed")

// storeReclaimed removes a volume whose directory is gone, or says why that is still
// there.
func (d *Dispatcher) storeReclaimed(ctx context.Context, node string, said *agentv1.VolumeReclaimed) error {
	kind := resource.PersistentVolumes
	change := func(subresource string, apply func(*corev1.PersistentVolume) bool) error {
		_, _, err := d.cfg.Registry.Update(ctx, kind, "", said.Name, subresource, func(current store.Object) (store.Object, error) {
			v := current.(*corev1.PersistentVolume)
			if on, _, ok := resource.ReclaimedDirectory(v); !ok || on != node || string(v.UID) != said.Uid || !apply(v) {
				return nil, errStays
			}
			return v, nil
		}, resource.UpdateOptions{})
		if errors.Is(err, errStays) || apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	if said.Error != "" {
		message := fmt.Sprintf("node %q could not delete the directory: %s", node, said.Error)
		return change("status", func(v *corev1.PersistentVolume) bool {
			failed := v.Status.Phase != corev1.VolumeFailed || v.Status.Message != message
			v.Status.Phase, v.Status.Message = corev1.VolumeFailed, message
			return failed
		})
	}
	// The agent may have been told by another control node.
	if err := d.cfg.Store.ReadBarrier(ctx); err != nil {
		return err
	}
	v, err := store.Of[*corev1.PersistentVolume](d.cfg.Store, store.PersistentVolumes).Get(ctx, "", said.Name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	if on, _, ok := resource.ReclaimedDirectory(v); !ok || on != node || string(v.UID) != said.Uid {
		return nil
	}
	// First the deletion, then what holds it up: a leader that dies in between leaves
	// a volume whose agent is told again.
	if v.DeletionTimestamp == nil {
		uid := v.UID
		_, _, err := d.cfg.Registry.Delete(ctx, kind, "", said.Name, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return change("", resource.WithoutDirectory)
}
