package scheduler

import (
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// room is what a driver says it can still make for a class on the nodes that are near.
type room struct {
	key, class string // namespace/name, and of storage
	near       labels.Selector
	first      [2]string // a label that all of these nodes have; "" if that can't be told
	most, left int64     // the largest volume, and all together
}

// rooms are those of a class, by such a label, and key.
type rooms map[[2]string]map[string]*room

// on is room for a volume of that size on a node, nil without. Of several it is any, as
// upstream, but always the same.
func (r rooms) on(n *nodeInfo, size int64) (found *room) {
	look := func(label [2]string) {
		for _, it := range r[label] {
			if it.most >= size && it.near.Matches(labels.Set(n.node.Labels)) && (found == nil || it.key < found.key) {
				found = it
			}
		}
	}
	look([2]string{})
	for name, value := range n.node.Labels {
		look([2]string{name, value})
	}
	return found
}

// readRoom is nil if there is none, or none that could be told where.
func readRoom(key string, c *storagev1.CSIStorageCapacity) *room {
	if c == nil || c.NodeTopology == nil || c.MaximumVolumeSize == nil && c.Capacity == nil {
		return nil
	}
	near, err := metav1.LabelSelectorAsSelector(c.NodeTopology)
	if err != nil {
		return nil
	}
	r := &room{key: key, class: c.StorageClassName, near: near}
	if c.Capacity != nil {
		r.left = c.Capacity.Value()
	}
	if r.most = r.left; c.MaximumVolumeSize != nil {
		r.most = c.MaximumVolumeSize.Value()
	}
	for name, value := range c.NodeTopology.MatchLabels {
		r.first = [2]string{name, value}
	}
	return r
}

// setRoom takes over what a driver has left somewhere, or with nil that it says so no
// more. It answers the class for which larger volumes can be made than before, "" for none.
func (v *volumes) setRoom(key string, c *storagev1.CSIStorageCapacity) (grown string) {
	v.changes++
	old, now := v.roomOf[key], readRoom(key, c)
	if old != nil {
		delete(v.rooms[old.class][old.first], key)
		if len(v.rooms[old.class][old.first]) == 0 {
			delete(v.rooms[old.class], old.first)
		}
		if len(v.rooms[old.class]) == 0 {
			delete(v.rooms, old.class)
		}
		delete(v.roomOf, key)
	}
	if now == nil {
		return ""
	}
	if v.rooms[now.class] == nil {
		v.rooms[now.class] = rooms{}
	}
	if v.rooms[now.class][now.first] == nil {
		v.rooms[now.class][now.first] = map[string]*room{}
	}
	v.rooms[now.class][now.first][key] = now
	v.roomOf[key] = now
	if old == nil || old.most < now.most || old.class != now.class || old.near.String() != now.near.String() {
		return now.class // what it is of never changes, but one object may follow another of its name
	}
	return ""
}

// setDriver takes over a driver's state, or with nil that it is gone.
func (v *volumes) setDriver(name string, driver *storagev1.CSIDriver) {
	v.changes++
	if driver == nil {
		delete(v.drivers, name)
	} else {
		v.drivers[name] = driver
	}
}

// setAttachment takes over that a volume is to be attached to a node, or with nil that it
// is not any more. It answers the node where one may be less, "" for none.
func (v *volumes) setAttachment(name string, now *storagev1.VolumeAttachment) (freed string) {
	if old := v.attachments[name]; old != nil {
		freed = old.Spec.NodeName
		delete(v.attachedTo[freed], name)
		if len(v.attachedTo[freed]) == 0 {
			delete(v.attachedTo, freed)
		}
		delete(v.attachments, name)
	}
	if now == nil {
		return freed
	}
	node := now.Spec.NodeName
	if v.attachedTo[node] == nil {
		v.attachedTo[node] = map[string]*storagev1.VolumeAttachment{}
	}
	v.attachedTo[node][name], v.attachments[name] = now, now
	return freed
}
