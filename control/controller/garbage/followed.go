package garbage

import (
	"context"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// byOwner finds objects by the UID of each of their owners.
const byOwner = "owner"

// followed are copies of the metadata of all objects, a cache for each kind.
type followed struct {
	// listen hears of every change, from many goroutines.
	listen func(kind schema.GroupKind, old, now *metav1.PartialObjectMetadata)

	mu     sync.RWMutex
	caches map[schema.GroupKind]*following
}

type following struct {
	resource schema.GroupResource
	cache    *store.Cache[*metav1.PartialObjectMetadata]
	running  context.Context // ends with stop
	stop     context.CancelFunc
}

// follow follows the kinds of a catalog, in g until ctx ends, and no others any
// more. Events own nothing, are owned by nobody, and are many.
func (f *followed) follow(ctx context.Context, g *errgroup.Group, s *store.Store, catalog *resource.Catalog) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.caches == nil {
		f.caches = map[schema.GroupKind]*following{}
	}
	for kind, following := range f.caches {
		if now := catalog.GroupKind(kind); now == nil || now.Spec.Resource != following.resource {
			following.stop()
			delete(f.caches, kind)
		}
	}
	for _, kind := range catalog.Kinds() {
		gk := kind.Spec.Kind.GroupKind()
		if f.caches[gk] != nil || kind.Spec.Resource == store.Events.Resource {
			continue
		}
		following := &following{resource: kind.Spec.Resource, cache: store.NewCache(s, kind.Spec.Metadata(),
			map[string]func(*metav1.PartialObjectMetadata) []string{byOwner: owners})}
		following.cache.OnChange(func(old, now *metav1.PartialObjectMetadata) { f.listen(gk, old, now) })
		following.running, following.stop = context.WithCancel(ctx)
		f.caches[gk] = following
		g.Go(func() error { return following.cache.Run(following.running) })
	}
}

func owners(obj *metav1.PartialObjectMetadata) []string {
	var uids []string
	for _, ref := range obj.OwnerReferences {
		uids = append(uids, string(ref.UID))
	}
	return uids
}

// all are the kinds of this moment.
func (f *followed) all() map[schema.GroupKind]*following {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return maps.Clone(f.caches)
}

// synced waits until every cache holds what was stored when it began; false when
// ctx ended before.
func (f *followed) synced(ctx context.Context) bool {
	for _, following := range f.all() {
		select {
		case <-following.cache.Synced():
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// waitRevision returns once every kind is known as it was at a revision.
func (f *followed) waitRevision(ctx context.Context, revision uint64) error {
	for _, following := range f.all() {
		if err := following.waitRevision(ctx, revision); err != nil {
			return err
		}
	}
	return nil
}

// waitRevision waits for nothing of a kind that ceases to be.
func (f *following) waitRevision(ctx context.Context, revision uint64) error {
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(f.running, cancel)()
	err := f.cache.WaitRevision(waiting, revision)
	if f.running.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// dependent is an object that names another as an owner.
type dependent struct {
	object
	meta *metav1.PartialObjectMetadata
}

// dependents lists what names an object as an owner.
func (f *followed) dependents(uid types.UID) []dependent {
	var found []dependent
	for kind, following := range f.all() {
		for _, obj := range following.cache.ByIndex(byOwner, string(uid)) {
			found = append(found, dependent{object{kind, obj.Namespace, obj.Name}, obj})
		}
	}
	return found
}

// blocking are the dependents without which an owner that is deleted in the foreground
// does not go: those that say so. Where owners go round in a circle and all are being
// deleted, nobody waits for one that waits for him.
func (f *followed) blocking(owner types.UID) []dependent {
	return slices.DeleteFunc(f.named(owner), func(d dependent) bool {
		return f.leadsTo(owner, d, map[types.UID]bool{})
	})
}

func (f *followed) named(owner types.UID) []dependent {
	return slices.DeleteFunc(f.dependents(owner), func(d dependent) bool { return !blocks(d.meta, owner) })
}

// leadsTo says that a dependent waits, be it through others, for the owner to go first.
func (f *followed) leadsTo(owner types.UID, d dependent, seen map[types.UID]bool) bool {
	if d.meta.UID == owner {
		return true
	}
	if seen[d.meta.UID] || !inForeground(d.meta) {
		return false
	}
	seen[d.meta.UID] = true
	return slices.ContainsFunc(f.named(d.meta.UID), func(next dependent) bool { return f.leadsTo(owner, next, seen) })
}

func blocks(obj *metav1.PartialObjectMetadata, owner types.UID) bool {
	return slices.ContainsFunc(obj.OwnerReferences, func(ref metav1.OwnerReference) bool {
		return ref.UID == owner && ptr.Deref(ref.BlockOwnerDeletion, false)
	})
}

// uid is that of an object, empty if there is none; known says whether its kind
// is followed.
func (f *followed) uid(kind schema.GroupKind, namespace, name string) (uid types.UID, known bool) {
	f.mu.RLock()
	following := f.caches[kind]
	f.mu.RUnlock()
	if following == nil {
		return "", false
	}
	obj, ok := following.cache.Get(namespace, name)
	if !ok {
		// In no namespace, for an object in one.
		if obj, ok = following.cache.Get("", name); !ok {
			return "", true
		}
	}
	return obj.UID, true
}

// departedMost bounds what is remembered of objects that are gone.
const departedMost = 4096

// departed are the last objects that were seen to go. When a kind's definition
// goes right after its objects, this is what tells of them.
type departed struct {
	mu    sync.Mutex
	uids  map[types.UID]bool
	order []types.UID // a ring, oldest at next once it is full
	next  int
}

func (d *departed) add(uid types.UID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.uids == nil {
		d.uids = map[types.UID]bool{}
	}
	if len(d.order) < departedMost {
		d.order = append(d.order, uid)
	} else {
		delete(d.uids, d.order[d.next])
		d.order[d.next] = uid
		d.next = (d.next + 1) % departedMost
	}
	d.uids[uid] = true
}

func (d *departed) has(uid types.UID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.uids[uid]
}
