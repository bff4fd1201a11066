package dispatch

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// eventsMax bounds the events of one agent that wait to be stored; more are
// dropped, as events are a courtesy.
const eventsMax = 256

// reportBatch is how many pod statuses are stored together, so that a node that
// starts a hundred pods costs a handful of log entries.
const reportBatch = 128

// reports is what an agent said and the store does not yet know: of each pod
// the latest only, so it is bounded by the number of pods on the node.
type reports struct {
	statuses map[string]*agentv1.PodStatus // by uid
	gone     map[string]*agentv1.PodGone   // by uid
	node     *agentv1.NodeStatus
	events   []*agentv1.EventReport
	volumes  map[string]*agentv1.VolumeReclaimed // by uid
}

func newReports() reports {
	return reports{statuses: map[string]*agentv1.PodStatus{}, gone: map[string]*agentv1.PodGone{}, volumes: map[string]*agentv1.VolumeReclaimed{}}
}

func (r *reports) empty() bool {
	return len(r.statuses) == 0 && len(r.gone) == 0 && r.node == nil && len(r.events) == 0 && len(r.volumes) == 0
}

// take adds a message and says whether there is something to store now.
func (r *reports) take(message *agentv1.FromAgent) bool {
	switch m := message.Message.(type) {
	case *agentv1.FromAgent_PodStatus:
		r.statuses[m.PodStatus.Uid] = m.PodStatus
	case *agentv1.FromAgent_PodGone:
		r.gone[m.PodGone.Uid] = m.PodGone
	case *agentv1.FromAgent_NodeStatus:
		r.node = m.NodeStatus
	case *agentv1.FromAgent_Event:
		if len(r.events) < eventsMax {
			r.events = append(r.events, m.Event)
		}
	case *agentv1.FromAgent_VolumeReclaimed:
		r.volumes[m.VolumeReclaimed.Uid] = m.VolumeReclaimed
	default:
		return false
	}
	return true
}

// putBack returns what could not be stored, unless something newer came.
func (r *reports) putBack(old reports) {
	for uid, s := range old.statuses {
		if _, newer := r.statuses[uid]; !newer {
			r.statuses[uid] = s
		}
	}
	for uid, g := range old.gone {
		r.gone[uid] = g
	}
	for uid, v := range old.volumes {
		if _, newer := r.volumes[uid]; !newer {
			r.volumes[uid] = v
		}
	}
	if r.node == nil {
		r.node = old.node
	}
}

// report stores what the agent says, as fast as the store takes it, and tries
// again what failed for want of a leader.
func (s *session) report(ctx context.Context) error {
	attempt := 0
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.toReport:
		}
		var left reports
		if err := s.d.storing.do(ctx, func() {
			s.mu.Lock()
			now := s.reports // also what came while it waited for its turn
			s.reports = newReports()
			s.mu.Unlock()
			left = s.storeReports(ctx, now)
		}); err != nil {
			return err
		}
		if left.empty() {
			attempt = 0
			continue
		}
		s.mu.Lock()
		s.reports.putBack(left)
		s.mu.Unlock()
		if err := pause(ctx, attempt); err != nil {
			return err
		}
		attempt++
		signal(s.toReport)
	}
}

// storeReports returns what must be tried again. A status goes before the end
// of the same pod: the last exit code is worth having while the object lives.
func (s *session) storeReports(ctx context.Context, now reports) reports {
	left := newReports()
	if now.node != nil {
		if err := s.d.storeNodeStatus(ctx, s.node, now.node.Status); retry(err) {
			left.node = now.node
		} else if err != nil {
			s.d.log.Error("node status refused", "node", s.node, "error", err)
		}
	}
	s.storeStatuses(ctx, now.statuses, left.statuses)
	for uid, gone := range now.gone {
		if _, wait := left.statuses[uid]; wait {
			left.gone[uid] = gone
			continue
		}
		if err := s.d.finishDeletion(ctx, s.node, gone); retry(err) {
			left.gone[uid] = gone
		} else if err != nil {
			s.d.log.Error("deleted pod not removed", "node", s.node, "pod", gone.Namespace+"/"+gone.Name, "error", err)
		}
	}
	for uid, reclaimed := range now.volumes {
		if err := s.d.storeReclaimed(ctx, s.node, reclaimed); retry(err) {
			left.volumes[uid] = reclaimed
		} else if err != nil {
			s.d.log.Error("volume not removed", "node", s.node, "volume", reclaimed.Name, "error", err)
		}
	}
	for _, event := range now.events {
		s.d.queueEvent(s.node, event)
	}
	return left
}

func (s *session) storeStatuses(ctx context.Context, statuses, left map[string]*agentv1.PodStatus) {
	batch := make([]resource.PodStatusUpdate, 0, min(len(statuses), reportBatch))
	said := make([]*agentv1.PodStatus, 0, cap(batch))
	flush := func() {
		for i, err := range s.d.cfg.Registry.UpdatePodStatuses(ctx, batch) {
			if retry(err) {
				left[said[i].Uid] = said[i]
				continue
			}
			if err != nil && !apierrors.IsNotFound(err) {
				s.d.log.Error("pod status refused", "node", s.node, "pod", said[i].Namespace+"/"+said[i].Name, "error", err)
			}
			// Also when the pod is gone: the agent need not say it again.
			s.mark(func() {
				s.stored = append(s.stored, &agentv1.StatusStored{Uid: said[i].Uid, Sequence: said[i].Sequence})
			})
		}
		batch, said = batch[:0], said[:0]
	}
	for _, report := range statuses {
		update := resource.PodStatusUpdate{
			Namespace: report.Namespace, Name: report.Name, UID: types.UID(report.Uid), Node: s.node,
		}
		if err := update.Status.Unmarshal(report.Status); err != nil {
			s.d.log.Error("pod status unreadable", "node", s.node, "pod", report.Namespace+"/"+report.Name, "error", err)
			continue
		}
		batch, said = append(batch, update), append(said, report)
		if len(batch) == reportBatch {
			flush()
		}
	}
	if len(batch) > 0 {
		flush()
	}
}

// finishDeletion removes the object of a pod that was being deleted and of
// which nothing runs any more.
func (d *Dispatcher) finishDeletion(ctx context.Context, node string, gone *agentv1.PodGone) error {
	// The agent may have been told of the deletion by another control node.
	if err := d.cfg.Store.ReadBarrier(ctx); err != nil {
		return err
	}
	pod, err := store.Of[*corev1.Pod](d.cfg.Store, store.Pods).Get(ctx, gone.Namespace, gone.Name)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if string(pod.UID) != gone.Uid || pod.Spec.NodeName != node || pod.DeletionTimestamp == nil {
		return nil
	}
	uid := pod.UID
	_, _, err = d.cfg.Registry.Delete(ctx, d.cfg.Registry.Kind(store.Pods.Resource), gone.Namespace, gone.Name, &metav1.DeleteOptions{
		GracePeriodSeconds: ptr.To[int64](0),
		Preconditions:      &metav1.Preconditions{UID: &uid},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// retry says whether the store may take later what it did not take now: all
// that is not an answer about the object itself.
func retry(err error) bool {
	return err != nil && !permanent(err)
}

func permanent(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsForbidden(err)
}
