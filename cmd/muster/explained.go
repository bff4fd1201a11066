package main

import clusterv1 "github.com/musterhq/muster/proto/cluster/v1"

// explainedPod is what muster explain pod -o json prints.
type explainedPod struct {
	Namespace     string              `json:"namespace"`
	Name          string              `json:"name"`
	UID           string              `json:"uid"`
	Priority      int32               `json:"priority"`
	State         string              `json:"state"`
	Node          string              `json:"node,omitempty"`
	NominatedNode string              `json:"nominatedNode,omitempty"`
	SchedulerName string              `json:"schedulerName"`
	Gates         []string            `json:"gates,omitempty"`
	Pause         *schedulerPause     `json:"pause,omitempty"`
	Best          string              `json:"best"` // empty: no node can take it
	Closest       []string            `json:"closest"`
	Preemption    *explainedEvictions `json:"preemption,omitempty"`
	Nodes         []explainedNode     `json:"nodes"`
}

type explainedNode struct {
	Name     string             `json:"name"`
	Fits     bool               `json:"fits"`
	Refusals []explainedRefusal `json:"refusals,omitempty"`
	Needs    []string           `json:"needs,omitempty"`
	Scores   []explainedScore   `json:"scores,omitempty"`
	Total    int64              `json:"total,omitempty"`
}

type explainedRefusal struct {
	Filter  string   `json:"filter"`
	Reasons []string `json:"reasons"`
}

type explainedScore struct {
	Name     string `json:"name"`
	Score    int64  `json:"score"`
	Weighted int64  `json:"weighted"`
}

type explainedEvictions struct {
	Why        string            `json:"why,omitempty"` // why they do not help
	Node       string            `json:"node,omitempty"`
	Victims    []explainedVictim `json:"victims,omitempty"`
	Violations uint32            `json:"violations,omitempty"`
}

type explainedVictim struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Priority  int32  `json:"priority"`
}

func newExplainedPod(r *clusterv1.ExplainPodResponse) *explainedPod {
	out := &explainedPod{
		Namespace: r.Namespace, Name: r.Name, UID: r.Uid, Priority: r.Priority, State: r.State, Node: r.Node,
		NominatedNode: r.NominatedNode, SchedulerName: r.SchedulerName, Gates: r.Gates, Pause: newSchedulerPause(r.Pause),
		Best: r.Best, Closest: append([]string{}, r.Closest...), Nodes: []explainedNode{},
	}
	if p := r.Preemption; p != nil {
		out.Preemption = &explainedEvictions{Why: p.Why, Node: p.Node, Violations: p.Violations, Victims: newExplainedVictims(p.Victims)}
	}
	for _, n := range r.Nodes {
		it := explainedNode{Name: n.Name, Fits: len(n.Refusals) == 0, Needs: n.Needs, Total: n.Total}
		for _, refusal := range n.Refusals {
			it.Refusals = append(it.Refusals, explainedRefusal{refusal.Filter, refusal.Reasons})
		}
		for _, s := range n.Scores {
			it.Scores = append(it.Scores, explainedScore{s.Name, s.Score, s.Weighted})
		}
		out.Nodes = append(out.Nodes, it)
	}
	return out
}

func newExplainedVictims(victims []*clusterv1.ExplainedVictim) (list []explainedVictim) {
	for _, v := range victims {
		list = append(list, explainedVictim{v.Namespace, v.Name, v.Priority})
	}
	return list
}
