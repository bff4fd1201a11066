package dispatch

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// newClaims follows claims. With one that is bound goes its volume: the volume says
// that it is the claim's before the claim says so, so it is enough to follow claims.
func newClaims(s *store.Store) *contents {
	c := newContents(s, store.PersistentVolumeClaims, agentv1.Content_CLAIM)
	c.complete = c.volume
	return c
}

func (c *contents) volume(content *agentv1.Content) error {
	if len(content.Object) == 0 {
		return nil
	}
	var claim corev1.PersistentVolumeClaim
	if err := claim.Unmarshal(content.Object); err != nil || claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return err
	}
	item, _, err := c.store.Table(store.PersistentVolumes).GetItem("", claim.Spec.VolumeName)
	if err != nil {
		return nil // the agent says so
	}
	obj, err := store.Decode(store.PersistentVolumes, item)
	if err != nil {
		return err
	}
	v := obj.(*corev1.PersistentVolume)
	if v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != claim.UID {
		return nil
	}
	content.Volume, content.Directory = store.RawWithRevision(item), resource.IsLocalPath(v)
	return nil
}
