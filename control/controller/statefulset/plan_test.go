package statefulset

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a set, its pods and their claims without a cluster.
type world struct {
	set    *appsv1.StatefulSet
	pods   []*corev1.Pod
	claims map[string]*corev1.PersistentVolumeClaim
	update revision
	made   int
}

func makeWorld(replicas int32, change ...func(*appsv1.StatefulSetSpec)) *world {
	w := &world{claims: map[string]*corev1.PersistentVolumeClaim{}, set: &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db", UID: "set"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: "dbs",
			Selector:             &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}},
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{
				Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To(int32(0))},
			},
		},
	}}
	for _, f := range change {
		f(&w.set.Spec)
	}
	w.revise("v1")
	return w
}

func parallel(s *appsv1.StatefulSetSpec) { s.PodManagementPolicy = appsv1.ParallelPodManagement }

func (w *world) revise(image string) {
	w.update = revision{image, &corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "db"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image}}},
	}}
}

// pass plans and writes once, and returns how much was written.
func (w *world) pass() int {
	current := w.update
	if name := w.set.Status.CurrentRevision; name != "" {
		current = revision{name, &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: name}}}}}
	}
	claim := func(name string) *corev1.PersistentVolumeClaim { return w.claims[name] }
	p := makePlan(w.set, current, w.update, slices.Clone(w.pods), claim, now)
	for _, c := range append(p.claims, p.owned...) {
		w.claims[c.Name] = c
	}
	for _, pod := range p.create {
		w.made++
		pod.UID, pod.Status.Phase = types.UID(fmt.Sprint("p", w.made)), corev1.PodPending
		if slices.ContainsFunc(w.pods, func(other *corev1.Pod) bool { return other.Name == pod.Name }) {
			panic("two pods of one ordinal")
		}
		w.pods = append(w.pods, pod)
	}
	for _, pod := range p.remove {
		pod.DeletionTimestamp = ptr.To(metav1.NewTime(now))
	}
	w.set.Status = makePlan(w.set, current, w.update, slices.Clone(w.pods), claim, now).status
	return len(p.claims) + len(p.owned) + len(p.create) + len(p.mend) + len(p.remove)
}

func ready(pod *corev1.Pod) {
	pod.Status.Phase = corev1.PodRunning
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}
}

// follow makes pods what is asked for: gone, or ready.
func (w *world) follow() {
	w.pods = slices.DeleteFunc(w.pods, func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	for _, p := range w.pods {
		ready(p)
	}
}

// steps are what is there after each pass until nothing happens any more: ordinals with
// the version of their image, and a dash for those that are going.
func (w *world) steps() []string {
	var steps []string
	for range 100 {
		if w.pass() == 0 {
			return steps
		}
		steps = append(steps, w.String())
		w.follow()
	}
	return append(steps, "does not end")
}

func (w *world) String() string {
	var pods []string
	for _, p := range w.pods {
		_, ordinal := nameOf(p)
		text := fmt.Sprint(ordinal, p.Spec.Containers[0].Image)
		if p.DeletionTimestamp != nil {
			text += "-"
		}
		pods = append(pods, text)
	}
	slices.Sort(pods)
	return strings.Join(pods, " ")
}

func wantSteps(t *testing.T, w *world, want ...string) {
	t.Helper()
	if got := w.steps(); !slices.Equal(got, want) {
		t.Errorf("steps %q, want %q", got, want)
	}
}

func TestGoesInOrder(t *testing.T) {
	w := makeWorld(3)
	wantSteps(t, w, "0v1", "0v1 1v1", "0v1 1v1 2v1")
	if s := w.set.Status; s.CurrentReplicas != 3 || s.UpdatedReplicas != 3 || s.AvailableReplicas != 3 || s.CurrentRevision != "v1" {
		t.Errorf("status %+v, want 3 of everything", s)
	}
	w.revise("v2")
	wantSteps(t, w, "0v1 1v1 2v1-", "0v1 1v1 2v2", "0v1 1v1- 2v2", "0v1 1v2 2v2", "0v1- 1v2 2v2", "0v2 1v2 2v2")
	if s := w.set.Status; s.CurrentRevision != "v2" || s.UpdateRevision != "v2" {
		t.Errorf("status %+v, want all of v2", s)
	}
	w.set.Spec.Replicas = ptr.To(int32(1))
	wantSteps(t, w, "0v2 1v2 2v2-", "0v2 1v2-")
	if len(w.claims) != 3 {
		t.Errorf("%d claims, want 3: they outlast their pods", len(w.claims))
	}
}

func TestGoesAtOnceWhereItMay(t *testing.T) {
	w := makeWorld(3, parallel)
	wantSteps(t, w, "0v1 1v1 2v1")
	w.set.Spec.Replicas = ptr.To(int32(1))
	wantSteps(t, w, "0v1 1v1- 2v1-")
}

func TestUpdatesAbovePartitionAsManyAsMayLack(t *testing.T) {
	w := makeWorld(5, func(s *appsv1.StatefulSetSpec) {
		s.UpdateStrategy.RollingUpdate.Partition = ptr.To(int32(2))
		s.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(2))
	}, parallel)
	w.steps()
	w.revise("v2")
	wantSteps(t, w, "0v1 1v1 2v1 3v1- 4v1-", "0v1 1v1 2v1 3v2 4v2", "0v1 1v1 2v1- 3v2 4v2", "0v1 1v1 2v2 3v2 4v2")
	// A pod below the partition comes back as it was.
	w.pods = slices.DeleteFunc(w.pods, func(p *corev1.Pod) bool { return p.Name == "db-1" })
	wantSteps(t, w, "0v1 1v1 2v2 3v2 4v2")
}

func TestWaits(t *testing.T) {
	w := makeWorld(3)
	w.steps()
	w.pods[0].Status.Conditions = nil // db-0 is not ready
	w.revise("v2")
	if n := w.pass(); n != 0 {
		t.Errorf("writes %d while a pod is not ready, want none", n)
	}
	w.set.Spec.Replicas = ptr.To(int32(1))
	if n := w.pass(); n != 0 {
		t.Errorf("shrinks while a pod is not ready: %s", w)
	}
	w.set.Spec.Replicas = ptr.To(int32(3))
	w.pods[0].Status.Phase = corev1.PodFailed
	w.pass()
	if got := w.String(); got != "0v1- 1v1 2v1" {
		t.Errorf("pods %q, want the failed one to go", got)
	}
	onDelete := makeWorld(2, func(s *appsv1.StatefulSetSpec) {
		s.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
	})
	onDelete.steps()
	onDelete.revise("v2")
	wantSteps(t, onDelete)
}

func TestPodsAreTheirOrdinals(t *testing.T) {
	w := makeWorld(1, func(s *appsv1.StatefulSetSpec) { s.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5} })
	w.pass()
	p := w.pods[0]
	if p.Name != "db-5" || p.Spec.Hostname != "db-5" || p.Spec.Subdomain != "dbs" || p.Labels[appsv1.StatefulSetPodNameLabel] != "db-5" || p.Labels[appsv1.PodIndexLabel] != "5" || p.Labels[appsv1.StatefulSetRevisionLabel] != "v1" {
		t.Errorf("pod %+v, want it to be db-5", p)
	}
	if v := p.Spec.Volumes[0]; v.Name != "data" || v.PersistentVolumeClaim.ClaimName != "data-db-5" || w.claims["data-db-5"].Labels["app"] != "db" {
		t.Errorf("volume %+v, want its own claim, labelled", v)
	}
}

func TestClaimsGoAsThePolicySays(t *testing.T) {
	const keep, remove = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	owner := func(w *world, claim string) string {
		var kinds []string
		for _, ref := range w.claims[claim].OwnerReferences {
			kinds = append(kinds, ref.Kind)
		}
		return strings.Join(kinds, " ")
	}
	for _, c := range []struct {
		deleted, scaled  appsv1.PersistentVolumeClaimRetentionPolicyType
		within, scaledTo string // owners of the claim of a pod that stays, and of one that goes
	}{{keep, keep, "", ""}, {remove, keep, "StatefulSet", "StatefulSet"}, {keep, remove, "", "Pod"}, {remove, remove, "StatefulSet", "Pod"}} {
		w := makeWorld(2, parallel, func(s *appsv1.StatefulSetSpec) {
			s.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: c.deleted, WhenScaled: c.scaled}
		})
		w.steps()
		w.set.Spec.Replicas = ptr.To(int32(1))
		w.pass()
		if got, want := owner(w, "data-db-0")+","+owner(w, "data-db-1"), c.within+","+c.scaledTo; got != want {
			t.Errorf("deleted %s, scaled %s: owners %q, want %q", c.deleted, c.scaled, got, want)
		}
		w.follow()
		// A claim that still belongs to the pod that is gone will go: its successor waits.
		w.set.Spec.Replicas = ptr.To(int32(2))
		w.pass()
		if has := len(w.pods) == 2; has != (c.scaled == keep) {
			t.Errorf("deleted %s, scaled %s: pods %s while the old claim is there", c.deleted, c.scaled, w)
		}
	}
}

// Whatever happens to pods meanwhile: never two of an ordinal (pass panics), in order
// never one above another that is not ready, and an update never leaves more unavailable
// than may be, but for what failed by itself. In the end all are there.
func TestOrderHoldsWhateverHappens(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 7))
		ordered := r.IntN(2) == 0
		w := makeWorld(int32(1 + r.IntN(5)))
		if !ordered {
			parallel(&w.set.Spec)
		}
		for i := range 60 {
			switch r.IntN(12) {
			case 0:
				w.revise(fmt.Sprint("v", i))
			case 1:
				w.set.Spec.Replicas = ptr.To(int32(1 + r.IntN(5)))
			}
			lowest := 1 << 30
			for _, p := range w.pods {
				if _, n := nameOf(p); p.DeletionTimestamp != nil || p.Status.Phase != corev1.PodRunning {
					lowest = min(lowest, n)
				}
			}
			before := len(w.pods)
			w.pass()
			for _, p := range w.pods[before:] {
				if _, n := nameOf(p); ordered && n > lowest {
					t.Fatalf("seed %d: %s was made above %d, which is not ready", seed, p.Name, lowest)
				}
			}
			for j := 0; j < len(w.pods); j++ {
				p := w.pods[j]
				switch {
				case r.IntN(2) == 0:
				case p.DeletionTimestamp != nil:
					w.pods = slices.Delete(w.pods, j, j+1)
				case r.IntN(8) == 0:
					p.Status.Phase = corev1.PodFailed
				case !controller.HasFinished(p):
					ready(p)
				}
			}
		}
		w.revise("last")
		w.follow()
		w.steps()
		if s := w.set.Status; s.UpdatedReplicas != *w.set.Spec.Replicas || s.AvailableReplicas != *w.set.Spec.Replicas || int32(len(w.pods)) != *w.set.Spec.Replicas {
			t.Fatalf("seed %d: %s with status %+v in the end, want %d", seed, w, s, *w.set.Spec.Replicas)
		}
	}
}

// A set may want more pods than there is memory for.
func TestSetOfBillionsIsMadeInParts(t *testing.T) {
	for _, atOnce := range []bool{true, false} {
		w := makeWorld(math.MaxInt32)
		if atOnce {
			parallel(&w.set.Spec)
		}
		old := w.update
		for _, ordinal := range []int{3, math.MaxInt32 - 1} {
			pod := podOf(w.set, w.update, ordinal)
			pod.UID = types.UID(pod.Name)
			ready(pod)
			w.pods = append(w.pods, pod)
		}
		w.revise("v2")
		p := makePlan(w.set, old, w.update, w.pods, func(string) *corev1.PersistentVolumeClaim { return &corev1.PersistentVolumeClaim{} }, now)
		want := []string{"db-0"}
		if atOnce {
			want = nil
			for ordinal := 0; len(want) < burst; ordinal++ {
				if ordinal != 3 {
					want = append(want, podName(w.set, ordinal))
				}
			}
		}
		var made []string
		for _, pod := range p.create {
			made = append(made, pod.Name)
		}
		if !slices.Equal(made, want) {
			t.Errorf("parallel %v: %d pods are made, from %v on, want %d from %v on", atOnce, len(made), made[:min(5, len(made))], len(want), want[:min(5, len(want))])
		}
		// All others are missing, so none that is there may be.
		if len(p.remove) > 0 {
			t.Errorf("parallel %v: %s goes", atOnce, p.remove[0].Name)
		}
	}
}
