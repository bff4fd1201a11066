package scheduler

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/store"
)

// volumeNews takes what caches report of claims, volumes, classes and drivers to
// the goroutine that decides, as inbox does of pods and nodes.
type volumeNews struct {
	inbox *inbox

	mu sync.Mutex
	volumeBox
}

// volumeBox is what was heard since the last look, by name or namespace/name; nil: gone.
type volumeBox struct {
	claims      map[string]*corev1.PersistentVolumeClaim
	volumes     map[string]*corev1.PersistentVolume
	classes     map[string]*storagev1.StorageClass
	csiNodes    map[string]*storagev1.CSINode
	drivers     map[string]*storagev1.CSIDriver
	capacities  map[string]*storagev1.CSIStorageCapacity
	attachments map[string]*storagev1.VolumeAttachment
}

// newVolumeNews listens to the caches, which must not run yet.
func newVolumeNews(caches *controller.Caches, in *inbox) *volumeNews {
	b := &volumeNews{inbox: in}
	listen(b, caches.PersistentVolumeClaims, &b.claims)
	listen(b, caches.PersistentVolumes, &b.volumes)
	listen(b, caches.StorageClasses, &b.classes)
	listen(b, caches.CSINodes, &b.csiNodes)
	listen(b, caches.CSIDrivers, &b.drivers)
	listen(b, caches.CSIStorageCapacities, &b.capacities)
	listen(b, caches.VolumeAttachments, &b.attachments)
	return b
}

// listen has what a cache reports put into a part of the box.
func listen[T any, P interface {
	*T
	store.Object
}](b *volumeNews, cache *store.Cache[P], into *map[string]P) {
	cache.OnChange(func(old, now P) {
		of := now
		if now == nil {
			of = old
		}
		b.mu.Lock()
		if *into == nil {
			*into = map[string]P{}
		}
		(*into)[fullName(of)] = now
		b.mu.Unlock()
		b.inbox.ring()
	})
}

func fullName(o metav1.Object) string {
	if o.GetNamespace() == "" {
		return o.GetName()
	}
	return o.GetNamespace() + "/" + o.GetName()
}

// tell empties the box into the core.
func (b *volumeNews) tell(core *core) {
	b.mu.Lock()
	news := b.volumeBox
	b.volumeBox = volumeBox{}
	b.mu.Unlock()
	for name, class := range news.classes {
		core.setClass(name, class)
	}
	for name, driver := range news.drivers {
		core.setDriver(name, driver)
	}
	for key, c := range news.capacities {
		core.setRoom(key, c)
	}
	for name, node := range news.csiNodes {
		core.setCSINode(name, node)
	}
	for name, v := range news.volumes {
		core.setVolume(name, v)
	}
	for name, a := range news.attachments {
		core.setAttachment(name, a)
	}
	for key, claim := range news.claims {
		core.setClaim(key, claim)
	}
}
