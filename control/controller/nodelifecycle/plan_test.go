package nodelifecycle

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func nodeWith(conditions map[corev1.NodeConditionType]corev1.ConditionStatus, taints ...corev1.Taint) *corev1.Node {
	n := &corev1.Node{Spec: corev1.NodeSpec{Taints: taints}}
	for _, typ := range slices.Sorted(func(yield func(corev1.NodeConditionType) bool) {
		for t := range conditions {
			if !yield(t) {
				return
			}
		}
	}) {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: typ, Status: conditions[typ]})
	}
	return n
}

func describe(taints []corev1.Taint) []string {
	s := []string{}
	for _, t := range taints {
		s = append(s, t.Key+":"+string(t.Effect))
	}
	return s
}

func TestTaintsFollowConditions(t *testing.T) {
	type is = map[corev1.NodeConditionType]corev1.ConditionStatus
	const (
		notReady    = corev1.TaintNodeNotReady
		unreachable = corev1.TaintNodeUnreachable
	)
	user := corev1.Taint{Key: "user", Effect: corev1.TaintEffectNoExecute}
	old := metav1.NewTime(now.Add(-time.Hour))
	kept := corev1.Taint{Key: unreachable, Effect: corev1.TaintEffectNoSchedule, TimeAdded: &old}
	cordoned := nodeWith(is{"Ready": "True"})
	cordoned.Spec.Unschedulable = true
	for _, c := range []struct {
		what string
		node *corev1.Node
		hold bool
		want []string
	}{
		{what: "ready", node: nodeWith(is{"Ready": "True"}), want: []string{}},
		{what: "not reported yet", node: nodeWith(nil), want: []string{}},
		{what: "not ready", node: nodeWith(is{"Ready": "False"}), want: []string{notReady + ":NoSchedule", notReady + ":NoExecute"}},
		{what: "unknown", node: nodeWith(is{"Ready": "Unknown"}), want: []string{unreachable + ":NoSchedule", unreachable + ":NoExecute"}},
		{what: "unknown, on hold", node: nodeWith(is{"Ready": "Unknown"}), hold: true, want: []string{unreachable + ":NoSchedule"}},
		{what: "user's NoExecute stays on hold", node: nodeWith(is{"Ready": "Unknown"}, user), hold: true, want: []string{"user:NoExecute", unreachable + ":NoSchedule"}},
		{what: "from unknown to not ready", node: nodeWith(is{"Ready": "False"}, kept), want: []string{notReady + ":NoSchedule", notReady + ":NoExecute"}},
		{what: "one of the two is there", node: nodeWith(is{"Ready": "Unknown"}, kept), want: []string{unreachable + ":NoSchedule", unreachable + ":NoExecute"}},
		{what: "recovered; the user's taint stays", node: nodeWith(is{"Ready": "True"}, kept, user), want: []string{"user:NoExecute"}},
		{what: "pressures", node: nodeWith(is{"Ready": "True", "MemoryPressure": "True", "DiskPressure": "True", "PIDPressure": "True", "NetworkUnavailable": "True"}),
			want: []string{"node.kubernetes.io/memory-pressure:NoSchedule", "node.kubernetes.io/disk-pressure:NoSchedule", "node.kubernetes.io/pid-pressure:NoSchedule", "node.kubernetes.io/network-unavailable:NoSchedule"}},
		{what: "cordoned", node: cordoned, want: []string{"node.kubernetes.io/unschedulable:NoSchedule"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			before := describe(c.node.Spec.Taints)
			got, changed := wantedTaints(c.node, c.hold, now)
			if !slices.Equal(describe(got), c.want) {
				t.Errorf("got %q, want %q", describe(got), c.want)
			}
			if changed != !slices.Equal(before, c.want) {
				t.Errorf("changed is %v, from %q to %q", changed, before, c.want)
			}
			for _, taint := range got {
				had := slices.ContainsFunc(c.node.Spec.Taints, func(o corev1.Taint) bool { return o == taint })
				if !had && (taint.TimeAdded == nil || !taint.TimeAdded.Time.Equal(now)) {
					t.Errorf("new taint %s has timeAdded %v, want now", taint.Key, taint.TimeAdded)
				}
			}
			c.node.Spec.Taints = got
			if again, changed := wantedTaints(c.node, c.hold, now.Add(time.Hour)); changed {
				t.Errorf("planned again it changes once more, to %q", describe(again))
			}
		})
	}
}

func TestLostNodeIsStoredAsUnknownOnce(t *testing.T) {
	n := nodeWith(map[corev1.NodeConditionType]corev1.ConditionStatus{"Ready": "True", "DiskPressure": "False", "NetworkUnavailable": "False"})
	if !needsUnknown(n) {
		t.Fatal("a node that reports needs no change")
	}
	setUnknown(n, now)
	for typ, reason := range map[corev1.NodeConditionType]string{
		"Ready": "NodeStatusUnknown", "DiskPressure": "NodeStatusUnknown", "MemoryPressure": "NodeStatusNeverUpdated", "PIDPressure": "NodeStatusNeverUpdated",
	} {
		if c := conditionOf(n, typ); c.Status != corev1.ConditionUnknown || c.Reason != reason || !c.LastTransitionTime.Time.Equal(now) {
			t.Errorf("%s is %s for %s since %s, want Unknown for %s since now", typ, c.Status, c.Reason, c.LastTransitionTime, reason)
		}
	}
	if c := conditionOf(n, "NetworkUnavailable"); c.Status != corev1.ConditionFalse {
		t.Errorf("NetworkUnavailable is %s, which is not for us to say", c.Status)
	}
	if needsUnknown(n) {
		t.Error("needs to be written again")
	}
}

func TestEvictionTime(t *testing.T) {
	noExecute := func(key string) corev1.Taint { return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute} }
	tolerate := func(key string, seconds *int64) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, TolerationSeconds: seconds}
	}
	added := map[string]time.Time{"a": now, "b": now.Add(10 * time.Second)}
	for _, c := range []struct {
		what        string
		taints      []corev1.Taint
		tolerations []corev1.Toleration
		want        time.Duration // after now
		at, never   bool          // at: at once
	}{
		{what: "no taint", never: true},
		{what: "not tolerated", taints: []corev1.Taint{noExecute("a")}, at: true},
		{what: "tolerated for good", taints: []corev1.Taint{noExecute("a")}, tolerations: []corev1.Toleration{tolerate("a", nil)}, never: true},
		{what: "tolerated for a while", taints: []corev1.Taint{noExecute("a")}, tolerations: []corev1.Toleration{tolerate("a", ptr.To(int64(5)))}, want: 5 * time.Second},
		{what: "from when the taint was added", taints: []corev1.Taint{noExecute("b")}, tolerations: []corev1.Toleration{tolerate("b", ptr.To(int64(5)))}, want: 15 * time.Second},
		{what: "zero seconds", taints: []corev1.Taint{noExecute("a")}, tolerations: []corev1.Toleration{tolerate("a", ptr.To(int64(0)))}, at: true},
		{what: "negative seconds", taints: []corev1.Taint{noExecute("a")}, tolerations: []corev1.Toleration{tolerate("a", ptr.To(int64(-1)))}, at: true},
		{what: "the shorter of two", taints: []corev1.Taint{noExecute("a")}, tolerations: []corev1.Toleration{tolerate("a", ptr.To(int64(9))), tolerate("", ptr.To(int64(3)))}, want: 3 * time.Second},
		{what: "a limited one beside an unlimited one", taints: []corev1.Taint{noExecute("a")}, tolerations: []corev1.Toleration{tolerate("a", nil), tolerate("a", ptr.To(int64(3)))}, want: 3 * time.Second},
		{what: "the first of two taints", taints: []corev1.Taint{noExecute("a"), noExecute("b")}, tolerations: []corev1.Toleration{tolerate("a", ptr.To(int64(60))), tolerate("b", ptr.To(int64(1)))}, want: 11 * time.Second},
		{what: "one of two not tolerated", taints: []corev1.Taint{noExecute("a"), noExecute("b")}, tolerations: []corev1.Toleration{tolerate("a", nil)}, at: true},
		{what: "for another effect", taints: []corev1.Taint{noExecute("a")}, tolerations: []corev1.Toleration{{Key: "a", Operator: "Exists", Effect: corev1.TaintEffectNoSchedule}}, at: true},
	} {
		t.Run(c.what, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: c.tolerations}}
			got, ok := evictionTime(pod, c.taints, func(t *corev1.Taint) time.Time { return added[t.Key] })
			switch {
			case ok == c.never:
				t.Errorf("evicted: %v, want %v", ok, !c.never)
			case c.at && !got.IsZero():
				t.Errorf("leaves at %v, want at once", got)
			case !c.at && ok && !got.Equal(now.Add(c.want)):
				t.Errorf("leaves after %v, want %v", got.Sub(now), c.want)
			}
		})
	}
}

// Whatever comes and goes: a node is lost only after it has been without a session
// for the whole grace and gossip does not hear it, or for the whole session
// grace, and at the latest when judge said to look again.
func TestSilence(t *testing.T) {
	const grace, sessionGrace = 1500 * time.Millisecond, 40 * time.Second
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 3))
		s := newSilences(grace, sessionGrace)
		at := now
		var noSession time.Time
		session, gossip := true, true
		for range 200 {
			switch r.IntN(6) {
			case 0:
				session = !session
			case 1:
				gossip = !gossip
			}
			if session {
				noSession = time.Time{}
			} else if noSession.IsZero() {
				noSession = at
			}
			want := !session && (!gossip && at.Sub(noSession) >= grace || at.Sub(noSession) >= sessionGrace)
			lost, again := s.judge("n", session, gossip, 0, at)
			if lost != want {
				t.Fatalf("seed %d: lost is %v, want %v: gossip %v, no session for %v", seed, lost, want, gossip, at.Sub(noSession))
			}
			if lost != s.sessionLost("n", at) && !lost {
				t.Fatalf("seed %d: no session for too long, and yet not lost", seed)
			}
			if session && again != 0 || !session && !lost && again <= 0 {
				t.Fatalf("seed %d: look again in %v with session %v", seed, again, session)
			}
			step := time.Duration(r.IntN(1000)) * time.Millisecond
			if again > 0 && r.IntN(3) == 0 {
				step = again
			}
			at = at.Add(step)
		}
	}
}

func TestTaintTimesAreExactWhereTheyCanBe(t *testing.T) {
	times := newTaintTimes()
	taint := corev1.Taint{Key: "a", Effect: corev1.TaintEffectNoExecute, TimeAdded: &metav1.Time{Time: now.Truncate(time.Second)}}
	plain := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	tainted := plain.DeepCopy()
	tainted.Spec.Taints = []corev1.Taint{taint}
	saw := now.Add(900 * time.Millisecond)
	if times.note(nil, plain, now) {
		t.Error("a node without taints is news")
	}
	if !times.note(plain, tainted, saw) {
		t.Error("a new taint is no news")
	}
	if times.note(tainted, tainted, saw.Add(time.Minute)) {
		t.Error("a taint that stays is news")
	}
	if got := times.since("n", &taint, saw.Add(time.Hour)); !got.Equal(saw) {
		t.Errorf("since %v, want when it was seen, %v", got, saw)
	}

	for what, c := range map[string]struct {
		added *metav1.Time
		want  time.Time
	}{
		"found by a new leader: the cut-off second is the pod's": {&metav1.Time{Time: now.Add(-time.Minute)}, now.Add(-time.Minute + time.Second)},
		"found, in the future by another clock":                  {&metav1.Time{Time: now.Add(time.Hour)}, now},
		"found, without a time":                                  {nil, now},
	} {
		found := tainted.DeepCopy()
		found.Spec.Taints[0].TimeAdded = c.added
		times := newTaintTimes()
		times.note(nil, found, now)
		if got := times.since("n", &found.Spec.Taints[0], now.Add(time.Hour)); !got.Equal(c.want) {
			t.Errorf("%s: since %v, want %v", what, got, c.want)
		}
	}
}

func TestPodsAreMarkedOnceAndReportsStand(t *testing.T) {
	since := now
	for i, c := range []struct {
		status corev1.ConditionStatus
		at     time.Time
		want   bool
	}{
		{corev1.ConditionTrue, now.Add(-time.Minute), true},
		{corev1.ConditionTrue, now, true},
		{corev1.ConditionTrue, now.Add(time.Second), false},
		{corev1.ConditionFalse, now.Add(-time.Minute), false},
	} {
		pod := &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: c.status, LastTransitionTime: metav1.NewTime(c.at)}}}}
		if got := countsAsReady(pod, since); got != c.want {
			t.Errorf("case %d: counts as ready: %v, want %v", i, got, c.want)
		}
		setNotReady(pod, now)
		if countsAsReady(pod, since) {
			t.Errorf("case %d: counts as ready after it was marked", i)
		}
	}
	if countsAsReady(&corev1.Pod{}, since) {
		t.Error("a pod without conditions counts as ready")
	}
}
