package dispatch

import (
	"context"
	"errors"
	"sync"

	apiwatch "k8s.io/apimachinery/pkg/watch"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/fsm/kv"
)

// desired follows the pods of the local replica as bytes, by the node that they
// are bound to, without decoding them.
type desired struct {
	table   *store.Table
	store   *store.Store
	changed func(node, key string)

	mu       sync.Mutex
	byNode   map[string]map[string]podBytes
	nodeOf   map[string]string
	revision uint64
	moved    chan struct{} // closed and replaced when revision grows
}

// podBytes is a core/v1 Pod with its resourceVersion.
type podBytes struct {
	raw      []byte
	revision uint64
}

func newDesired(s *store.Store, changed func(node, key string)) *desired {
	return &desired{
		table: s.Table(store.Pods), store: s, changed: changed,
		byNode: map[string]map[string]podBytes{}, nodeOf: map[string]string{}, moved: make(chan struct{}),
	}
}

// Run lists and follows until ctx ends; after a gap in the history it lists again.
func (d *desired) Run(ctx context.Context) error {
	for {
		err := d.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, store.ErrExpired) {
			return err
		}
	}
}

func (d *desired) follow(ctx context.Context) error {
	page, err := d.table.List(ctx, store.ListOptions{})
	if err != nil {
		return err
	}
	d.replace(page)
	watch, err := d.table.Watch(ctx, store.WatchOptions{After: page.Revision})
	if err != nil {
		return err
	}
	for {
		events, progress, err := watch.Next(ctx)
		if err != nil {
			return err
		}
		d.mu.Lock()
		for _, e := range events {
			if e.Type == apiwatch.Deleted {
				d.drop(e.Item.Key)
			} else {
				d.put(e.Item)
			}
		}
		d.reach(progress)
		d.mu.Unlock()
	}
}

func (d *desired) replace(page store.Page) {
	d.mu.Lock()
	defer d.mu.Unlock()
	kept := make(map[string]bool, len(page.Items))
	for _, item := range page.Items {
		kept[item.Key] = true
		d.put(item)
	}
	for key := range d.nodeOf {
		if !kept[key] {
			d.drop(key)
		}
	}
	d.reach(page.Revision)
}

// put, drop and reach run with mu held.
func (d *desired) put(item *kv.Item) {
	node := item.Fields.Get("spec.nodeName")
	if d.nodeOf[item.Key] != node {
		d.drop(item.Key) // another pod of that name, seen in a list
	}
	if node == "" {
		return
	}
	pods := d.byNode[node]
	if pods == nil {
		pods = map[string]podBytes{}
		d.byNode[node] = pods
	}
	if pods[item.Key].revision == item.Revision {
		return
	}
	pods[item.Key] = podBytes{raw: store.RawWithRevision(item), revision: item.Revision}
	d.nodeOf[item.Key] = node
	d.changed(node, item.Key)
}

func (d *desired) drop(key string) {
	node, ok := d.nodeOf[key]
	if !ok {
		return
	}
	delete(d.nodeOf, key)
	delete(d.byNode[node], key)
	if len(d.byNode[node]) == 0 {
		delete(d.byNode, node)
	}
	d.changed(node, key)
}

func (d *desired) reach(revision uint64) {
	if revision > d.revision {
		d.revision = revision
		close(d.moved)
		d.moved = make(chan struct{})
	}
}

// keys of all pods of a node.
func (d *desired) keys(node string) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	keys := make([]string, 0, len(d.byNode[node]))
	for key := range d.byNode[node] {
		keys = append(keys, key)
	}
	return keys
}

// get answers nil when the pod is not (or no longer) on the node.
func (d *desired) get(node, key string) (podBytes, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	pod, ok := d.byNode[node][key]
	return pod, ok
}

// caughtUp returns once all that was committed before the call is followed here.
func (d *desired) caughtUp(ctx context.Context) error {
	if err := d.store.ReadBarrier(ctx); err != nil {
		return err
	}
	want := d.table.LastChange(d.store.Revision())
	for {
		d.mu.Lock()
		have, moved := d.revision, d.moved
		d.mu.Unlock()
		if have >= want {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		}
	}
}
