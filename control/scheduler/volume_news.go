package scheduler

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/musterhq/muster/control/controller"
)

// volumeNews takes what caches report of claims, volumes, classes and CSI nodes to
// the goroutine that decides, as inbox does of pods and nodes.
type volumeNews struct {
	inbox *inbox

	mu       sync.Mutex
	claims   map[string]*corev1.PersistentVolumeClaim // by namespace/name; nil: gone
	volumes  map[string]*corev1.PersistentVolume
	classes  map[string]*storagev1.StorageClass
	csiNodes map[string]*storagev1.CSINode
}

// newVolumeNews listens to the caches, which must not run yet.
func newVolumeNews(caches *controller.Caches, in *inbox) *volumeNews {
	b := &volumeNews{inbox: in}
	b.empty()
	caches.PersistentVolumeClaims.OnChange(func(old, now *corev1.PersistentVolumeClaim) {
		b.put(func() {
			if now != nil {
				b.claims[claimKey(now)] = now
			} else {
				b.claims[claimKey(old)] = nil
			}
		})
	})
	caches.PersistentVolumes.OnChange(func(old, now *corev1.PersistentVolume) {
		b.put(func() {
			if now != nil {
				b.volumes[now.Name] = now
			} else {
				b.volumes[old.Name] = nil
			}
		})
	})
	caches.StorageClasses.OnChange(func(old, now *storagev1.StorageClass) {
		b.put(func() {
			if now != nil {
				b.classes[now.Name] = now
			} else {
				b.classes[old.Name] = nil
			}
		})
	})
	caches.CSINodes.OnChange(func(old, now *storagev1.CSINode) {
		b.put(func() {
			if now != nil {
				b.csiNodes[now.Name] = now
			} else {
				b.csiNodes[old.Name] = nil
			}
		})
	})
	return b
}

// empty runs with mu held, or before anybody else knows of the box.
func (b *volumeNews) empty() {
	b.claims, b.volumes = map[string]*corev1.PersistentVolumeClaim{}, map[string]*corev1.PersistentVolume{}
	b.classes, b.csiNodes = map[string]*storagev1.StorageClass{}, map[string]*storagev1.CSINode{}
}

func (b *volumeNews) put(change func()) {
	b.mu.Lock()
	change()
	b.mu.Unlock()
	b.inbox.ring()
}

// tell empties the box into the core.
func (b *volumeNews) tell(core *core) {
	b.mu.Lock()
	claims, volumes, classes, csiNodes := b.claims, b.volumes, b.classes, b.csiNodes
	if len(claims)+len(volumes)+len(classes)+len(csiNodes) > 0 {
		b.empty()
	} else {
		claims, volumes, classes, csiNodes = nil, nil, nil, nil // the handlers' own
	}
	b.mu.Unlock()
	for name, class := range classes {
		core.setClass(name, class)
	}
	for name, node := range csiNodes {
		core.setCSINode(name, node)
	}
	for name, v := range volumes {
		core.setVolume(name, v)
	}
	for key, claim := range claims {
		core.setClaim(key, claim)
	}
}
