package autopilot

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/musterhq/muster/consensus"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

const (
	// A healthy control node heard the leader this recently, which is several
	// times as long as one waits for it before it looks for another.
	contactMax = 2 * time.Second
	// A healthy control node lags behind the leader's log by at most this many
	// entries; under load it always is a few behind.
	lagMax = 1024
)

// verdict is what was found of a server's health, and since when.
type verdict struct {
	healthy bool
	since   time.Time
}

// sight is all that health is judged by.
type sight struct {
	status   consensus.Status // of the node that answers
	format   uint32           // that the cluster writes
	settings Settings
	answers  map[string]described
	states   map[string]string // gossip's word, by name
	members  []member          // as clean-up judges them, on the leader
}

// Health says how well the control nodes are, by asking each of them. Whoever
// answers needs no leader for it.
func (a *Autopilot) Health(ctx context.Context) *clusterv1.AutopilotResponse {
	now := time.Now()
	v := sight{
		status: a.Node.Status(), format: a.Store.Format(), settings: a.settings(),
		states: map[string]string{},
	}
	since := map[string]time.Time{}
	for _, s := range v.status.Servers {
		v.states[s.Name], since[s.Name] = a.State(s.Name)
	}
	if v.status.Leader == v.status.Name {
		v.members = a.members(now)
	}
	v.answers = a.describe(ctx, v.status.Servers)
	response := judge(v)
	a.date(response, since, now)
	return response
}

// date says since when each server has been as it is. What is found for the
// first time has been so since gossip saw the last change.
func (a *Autopilot) date(r *clusterv1.AutopilotResponse, gossip map[string]time.Time, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := map[string]verdict{}
	for _, s := range r.Servers {
		v, known := a.seen[s.Name]
		switch explained := s.Healthy == (s.State == stateAlive) && !gossip[s.Name].IsZero(); {
		case known && v.healthy == s.Healthy:
		case explained:
			v = verdict{s.Healthy, gossip[s.Name]}
		default:
			v = verdict{s.Healthy, now}
		}
		seen[s.Name] = v
		s.Since = v.since.Unix()
	}
	a.seen = seen
}

func judge(v sight) *clusterv1.AutopilotResponse {
	r := &clusterv1.AutopilotResponse{
		Leader: v.status.Leader, Quorum: v.status.HasQuorum, AnsweredBy: v.status.Name, Format: v.format,
	}
	newest := v.newest()
	voters, well := 0, 0
	for _, s := range v.status.Servers {
		h := v.server(s, newest)
		if s.Voter {
			voters++
			if h.Healthy {
				well++
			}
		}
		r.Servers = append(r.Servers, h)
	}
	slices.SortFunc(r.Servers, func(a, b *clusterv1.ServerHealth) int { return cmp.Compare(a.Name, b.Name) })
	r.Healthy = r.Quorum && voters > 0 && well == voters
	if r.Quorum {
		r.FailureTolerance = uint32(max(0, well-(voters/2+1)))
	}
	r.Warnings = v.warnings(r, voters)
	return r
}

// newest is the last index of the leader's log, or of the longest one that is
// known of while there is no leader.
func (v sight) newest() (index uint64) {
	if leader := v.answers[v.status.Leader]; leader.DescribeResponse != nil {
		return leader.LastIndex
	}
	for _, it := range v.answers {
		index = max(index, it.GetLastIndex())
	}
	return index
}

func (d described) GetLastIndex() uint64 { return d.DescribeResponse.GetLastIndex() }

func (v sight) server(s consensus.Server, newest uint64) *clusterv1.ServerHealth {
	it := v.answers[s.Name]
	h := &clusterv1.ServerHealth{
		Name: s.Name, Address: s.Address, Voter: s.Voter, Leader: s.Name == v.status.Leader, State: v.states[s.Name],
	}
	if who := it.DescribeResponse; who != nil {
		h.Version, h.Format, h.Term = who.Version, who.Format, who.Term
		h.LastIndex, h.AppliedIndex, h.LastContactMs = who.LastIndex, who.AppliedIndex, who.LastContactMs
		h.Disk, h.DiskFreeBytes, h.LogBytes, h.SnapshotBytes = who.Disk, who.DiskFreeBytes, who.LogBytes, who.SnapshotBytes
	}
	h.Reason = v.reason(s, it, newest)
	h.Healthy = h.Reason == ""
	return h
}

// reason is what is wrong with a server; empty: nothing.
func (v sight) reason(s consensus.Server, it described, newest uint64) string {
	who := it.DescribeResponse
	switch {
	case it.err != nil:
		return it.err.Error()
	case who == nil:
		return "it was not asked"
	case who.Leader == "":
		return "it hears no leader"
	case v.status.Leader != "" && who.Leader != v.status.Leader:
		return fmt.Sprintf("it takes %s for the leader", who.Leader)
	case who.Leader != s.Name && (who.LastContactMs < 0 || who.LastContactMs > contactMax.Milliseconds()):
		return fmt.Sprintf("it has not heard the leader for %v", time.Duration(who.LastContactMs)*time.Millisecond)
	case who.Disk == clusterv1.DiskState_DISK_FULL:
		return fmt.Sprintf("its disk is full (%d MiB free)", who.DiskFreeBytes>>20)
	case max(1, who.Format) < v.format:
		return fmt.Sprintf("it reads commands up to format %d, and the cluster writes %d: start the newer version", max(1, who.Format), v.format)
	case newest > who.LastIndex+lagMax:
		return fmt.Sprintf("it is %d entries behind", newest-who.LastIndex)
	case who.LastIndex > who.AppliedIndex+lagMax:
		return fmt.Sprintf("it has %d entries still to apply", who.LastIndex-who.AppliedIndex)
	}
	return ""
}

// warnings are sentences about the whole: what is wrong, and what to do.
func (v sight) warnings(r *clusterv1.AutopilotResponse, voters int) []string {
	var warnings []string
	warn := func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) }
	if !r.Quorum {
		warn("no quorum: %s hears no leader, and nothing can be written; start the control nodes that are missing, or if they are lost for good, see muster operator recover", v.status.Name)
	}
	if voters%2 == 0 {
		warn("%d voters survive the loss of no more of them than %d: add or remove one", voters, voters-1)
	}
	if voters == 1 {
		warn("one voter survives the loss of none: add two more")
	}
	remove, held := plan(v.settings, v.members)
	versions := map[string][]string{}
	for _, s := range r.Servers {
		if s.Version != "" {
			versions[s.Version] = append(versions[s.Version], s.Name)
		}
		// Of a node that is down the state says why, and its reason the rest.
		switch {
		case s.State == "dead" || s.State == "left":
			next := "start it, or take it out: muster operator raft remove-peer " + s.Name
			switch {
			case !r.Quorum:
				next = "start it" // nobody can take it out
			case remove == s.Name:
				next = "it is being removed"
			case held != "" && v.due(s.Name):
				next = fmt.Sprintf("clean-up does not remove it (%s); start it, or take it out: muster operator raft remove-peer %s", held, s.Name)
			}
			warn("%s is gone (%s): %s", s.Name, s.State, next)
		case !s.Voter && s.Healthy:
			warn("%s does not vote yet: it will once it has caught up and been well for %v", s.Name, v.settings.StableAfter)
		case !s.Voter:
			warn("%s does not vote: %s", s.Name, s.Reason)
		}
		if s.Disk == clusterv1.DiskState_DISK_FULL {
			warn("the disk of %s is full: free some space", s.Name)
		}
	}
	if len(versions) > 1 {
		var list []string
		for version, names := range versions {
			list = append(list, fmt.Sprintf("%s on %s", version, strings.Join(names, ", ")))
		}
		slices.Sort(list)
		warn("the control nodes run different versions (%s): go on with the upgrade", strings.Join(list, "; "))
	}
	if format, behind := common(maxFormat(r), v.status.Servers, v.answers); r.Format < maxFormat(r) && format < maxFormat(r) && behind != "" {
		warn("the cluster writes commands of format %d until %s", r.Format, behind)
	}
	return warnings
}

func (v sight) due(name string) bool {
	for _, m := range v.members {
		if m.name == name {
			return m.gone >= v.settings.DeadServerAfter
		}
	}
	return false
}

func maxFormat(r *clusterv1.AutopilotResponse) (format uint32) {
	for _, s := range r.Servers {
		format = max(format, s.Format)
	}
	return format
}
