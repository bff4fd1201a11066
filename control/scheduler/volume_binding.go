package scheduler

import (
	"math"

	schedulerv1 "k8s.io/kube-scheduler/config/v1"
)

// volumeBinding refuses nodes that the pod's volumes can't be reached from, and those
// where its claims would find none. Of the rest it prefers those where its claims leave
// most of the volumes that they would have, or whatever the profile's shape says.
type volumeBinding struct {
	// rate is of what claims ask for and what the volumes have.
	rate func(requested, capacity int64) int64
}

func newVolumeBinding(args *schedulerv1.VolumeBindingArgs) volumeBinding {
	return volumeBinding{shapeOf(args.Shape)}
}

func (volumeBinding) name() string            { return "VolumeBinding" }
func (volumeBinding) applies(p *podInfo) bool { return len(p.claims) > 0 }
func (volumeBinding) bars(n *needs) string    { return n.refusal }

func (b volumeBinding) refuse(p *podInfo, n *nodeInfo, reasons []string) []string {
	need, before := n.volumes.needs(p), len(reasons)
	if why := b.bars(need); why != "" {
		reasons = append(reasons, why)
	} else {
		_, reasons = n.volumes.finds(need, n, reasons)
	}
	if len(reasons) > before {
		n.volumes.refuses(p)
	}
	return reasons
}

func (volumeBinding) tells(p *podInfo) bool { return len(p.claims) > 0 }

// storageUse is what claims ask for of what there is.
type storageUse struct{ requested, capacity int64 }

func (b volumeBinding) scores(c *cluster, p *podInfo, nodes []*nodeInfo, scores []int64) []int64 {
	need := c.volumes.needs(p)
	if len(need.unbound) == 0 {
		return append(scores, make([]int64, len(nodes))...)
	}
	for _, n := range nodes {
		scores = append(scores, b.score(c.volumes, need, n))
	}
	return scores
}

// score is the mean over the classes of the volumes that the claims would have there, or
// if none of these exists, of the storage that they would be made from.
func (b volumeBinding) score(v *volumes, need *needs, n *nodeInfo) int64 {
	chosen, _ := v.finds(need, n, nil)
	there, made := make(map[string]storageUse), make(map[string]storageUse)
	for i := range need.unbound {
		u := &need.unbound[i]
		if it := v.byName[chosen[u.key].volume]; it != nil {
			use := there[it.Spec.StorageClassName]
			there[it.Spec.StorageClassName] = storageUse{use.requested + u.size, use.capacity + it.size}
		} else if r := u.rooms.on(n, u.size); r != nil {
			made[u.class.Name] = storageUse{made[u.class.Name].requested + u.size, r.left}
		}
	}
	classes := there
	if len(classes) == 0 {
		classes = made
	}
	if len(classes) == 0 {
		return 0
	}
	var sum int64
	for _, use := range classes {
		sum += b.rate(max(use.requested, 1), use.capacity) // of nothing all is used
	}
	return int64(math.Round(float64(sum) / float64(len(classes))))
}
