package scheduler

import (
	"cmp"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// State is the part of a cluster that decisions depend on. What is in it is
// shared, never changed.
type State struct {
	Algorithm Algorithm
	Profiles  *Profiles // nil: the standard one
	Nodes     []*corev1.Node
	// Pods that are on a node and use it count, and those for whom room is made on
	// one, when others are to make room; the rest is passed over.
	Pods []*corev1.Pod
	// Budgets are heeded by evictions.
	Budgets []*policyv1.PodDisruptionBudget
	// What rules about other pods go by.
	Namespaces []*corev1.Namespace
	Services   []*corev1.Service
	// What keeps pods, for how they are spread by default.
	ReplicationControllers []*corev1.ReplicationController
	ReplicaSets            []*appsv1.ReplicaSet
	StatefulSets           []*appsv1.StatefulSet
	// What pods' volumes go by.
	Claims               []*corev1.PersistentVolumeClaim
	Volumes              []*corev1.PersistentVolume
	StorageClasses       []*storagev1.StorageClass
	CSINodes             []*storagev1.CSINode
	CSIDrivers           []*storagev1.CSIDriver
	CSIStorageCapacities []*storagev1.CSIStorageCapacity
	VolumeAttachments    []*storagev1.VolumeAttachment
}

// Snapshot is a cluster to ask questions of: the filters, scores and indexes
// that the scheduler itself decides with, over objects that the caller chose.
// Nothing that is asked of it or done to it is written anywhere. It belongs to
// one goroutine.
type Snapshot struct {
	cluster *cluster
	budgets budgets
}

// NewSnapshot counts the state.
func NewSnapshot(state State) *Snapshot {
	s := &Snapshot{cluster: newCluster(sampleDefault), budgets: make(budgets)}
	for _, b := range state.Budgets {
		s.budgets.set(b)
	}
	for _, ns := range state.Namespaces {
		s.cluster.index.setNamespace(ns.Name, ns.Labels)
	}
	s.cluster.algorithm = state.Algorithm
	if state.Profiles != nil {
		s.cluster.profiles = state.Profiles
	}
	k := &s.cluster.keepers
	for _, svc := range state.Services {
		k.setService(svc.Namespace, svc.Name, svc.Spec.Selector)
	}
	for _, rc := range state.ReplicationControllers {
		k.setSet(objectKey{"ReplicationController", rc.Namespace, rc.Name}, controllerSelector(rc))
	}
	for _, rs := range state.ReplicaSets {
		k.setSet(objectKey{"ReplicaSet", rs.Namespace, rs.Name}, replicaSetSelector(rs))
	}
	for _, set := range state.StatefulSets {
		k.setSet(objectKey{"StatefulSet", set.Namespace, set.Name}, statefulSetSelector(set))
	}
	s.cluster.volumes.set(state)
	for _, n := range state.Nodes {
		s.cluster.setNode(n)
	}
	for _, p := range state.Pods {
		if p.Spec.NodeName != "" && !finished(p) {
			s.cluster.bound(p)
		}
		if s.cluster.wants(p) && p.Status.NominatedNodeName != "" {
			s.cluster.nominations.heed(s.cluster.read(p))
		}
	}
	return s
}

// Answer says where a pod could go, and why.
type Answer struct {
	// Nodes are in order of their names.
	Nodes []NodeAnswer
	// Best is the node with the highest total, the first of equals; "" if none can
	// take the pod. The scheduler scores a sample of the nodes in a large cluster
	// and takes the first of equals that it meets, so it may choose another.
	Best string
}

// NodeAnswer is one node's: it can take the pod if nothing refuses.
type NodeAnswer struct {
	Node string
	// Refusals are those of every filter, in the order that filters are asked; the
	// scheduler's own messages name the first only.
	Refusals []Refusal
	// Scores are there if nothing refuses, from every score that could tell nodes
	// apart; Total is the sum of Weighted.
	Scores []Score
	Total  int64
}

// Refusal is a filter, by upstream's name of the plugin, and what it says.
type Refusal struct {
	Filter  string
	Reasons []string
}

// Score is what one score gives a node.
type Score struct {
	Name       string // upstream's name of the plugin
	Normalized int64  // 0 to 100 among all nodes that can take the pod
	Weighted   int64
}

// Ask works out where the pod could go as things are now. The pod need not
// exist. A pod that the snapshot holds is answered for as if it came anew, in
// addition to itself: Remove it first to learn where else it could be.
func (s *Snapshot) Ask(pod *corev1.Pod) Answer {
	c := s.cluster
	p := c.read(pod)
	answer := Answer{Nodes: make([]NodeAnswer, len(c.order))}
	fs := c.applicable(p, nil)
	var feasible []*nodeInfo
	var open []*NodeAnswer
	for i, n := range slices.SortedFunc(slices.Values(c.order), func(a, b *nodeInfo) int { return cmp.Compare(a.name, b.name) }) {
		at := &answer.Nodes[i]
		at.Node = n.name
		for _, f := range fs {
			if reasons := f.refuse(p, n, nil); len(reasons) > 0 {
				at.Refusals = append(at.Refusals, Refusal{f.name(), reasons})
			}
		}
		if at.Refusals == nil {
			feasible, open = append(feasible, n), append(open, at)
		}
	}
	for _, sc := range p.profile.scorers {
		if !sc.tells(p) {
			continue
		}
		for i, score := range sc.scores(c, p, feasible, nil) {
			weighted := sc.weight * score
			open[i].Scores = append(open[i].Scores, Score{sc.name(), score, weighted})
			open[i].Total += weighted
		}
	}
	var best *NodeAnswer
	for _, at := range open {
		if best == nil || at.Total > best.Total {
			best, answer.Best = at, at.Node
		}
	}
	return answer
}

// Assume puts the pod on a node, for the questions that follow.
func (s *Snapshot) Assume(pod *corev1.Pod, node string) {
	on := pod.DeepCopy()
	on.Spec.NodeName = node
	s.cluster.bound(on)
}

// Remove takes a pod off its node, for the questions that follow.
func (s *Snapshot) Remove(pod *corev1.Pod) { s.cluster.release(pod.UID) }
