package deployment

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a deployment and its replica sets without a cluster: carry writes a
// plan as the controller does, and tests say what becomes of the pods.
type world struct {
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet
	made int
	now  time.Time
}

func makeWorld(replicas int32, surge, unavailable intstr.IntOrString) *world {
	return &world{now: now, d: &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "d", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: template("v1"),
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable},
			},
			RevisionHistoryLimit:    ptr.To(int32(10)),
			ProgressDeadlineSeconds: ptr.To(int32(600)),
		},
	}}
}

func template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image}}},
	}
}

// update is a user's change of the deployment.
func (w *world) update(change func(*appsv1.DeploymentSpec)) {
	change(&w.d.Spec)
	w.d.Generation++
}

func (w *world) image(image string) {
	w.update(func(s *appsv1.DeploymentSpec) { s.Template = template(image) })
}

func (w *world) scale(n int32) { w.update(func(s *appsv1.DeploymentSpec) { s.Replicas = &n }) }

// pass plans and writes once; it returns how much was written.
func (w *world) pass() (writes int) {
	p := makePlan(w.d, append([]*appsv1.ReplicaSet{}, w.sets...), func(set types.UID) bool {
		for _, s := range w.sets {
			if s.UID == set {
				return s.Status.Replicas+ptr.Deref(s.Status.TerminatingReplicas, 0) > 0
			}
		}
		return false
	}, w.now)
	for _, s := range p.steps {
		writes++
		if s.create {
			w.made++
			s.set.UID = types.UID(fmt.Sprint("set-", w.made))
			s.set.CreationTimestamp = metav1.NewTime(w.now.Add(time.Duration(w.made) * time.Second))
			s.set.Generation = 1
			w.sets = append(w.sets, s.set)
			continue
		}
		for i, set := range w.sets {
			if set.UID == s.set.UID {
				if replicas(set) != replicas(s.set) {
					s.set.Generation++
				}
				w.sets[i] = s.set
			}
		}
	}
	for _, gone := range p.remove {
		writes++
		for i, set := range w.sets {
			if set.UID == gone.UID {
				w.sets = append(w.sets[:i:i], w.sets[i+1:]...)
				break
			}
		}
	}
	if !apiequality.Semantic.DeepEqual(w.d.Status, p.status) || p.revision != "" && w.d.Annotations[revisionAnnotation] != p.revision {
		writes++
	}
	w.d.Status = p.status
	if p.revision != "" {
		metav1.SetMetaDataAnnotation(&w.d.ObjectMeta, revisionAnnotation, p.revision)
	}
	return writes
}

// pods makes the pods of all replica sets what they ask for, ready if they are of
// a good image.
func (w *world) pods(bad string) {
	for _, set := range w.sets {
		n := replicas(set)
		set.Status = appsv1.ReplicaSetStatus{Replicas: n, TerminatingReplicas: ptr.To(int32(0)), ObservedGeneration: set.Generation}
		if set.Spec.Template.Spec.Containers[0].Image != bad {
			set.Status.ReadyReplicas, set.Status.AvailableReplicas = n, n
		}
	}
}

// settle passes until nothing is left to do, with pods that follow.
func (w *world) settle(t *testing.T, bad string) {
	t.Helper()
	for range 200 {
		before := fmt.Sprint(w.sizes())
		w.pods(bad)
		if w.pass() == 0 && before == fmt.Sprint(w.sizes()) {
			return
		}
	}
	t.Fatalf("does not settle: %v", w.sizes())
}

// sizes are the replicas of each image.
func (w *world) sizes() map[string]int32 {
	sizes := map[string]int32{}
	for _, set := range w.sets {
		sizes[set.Spec.Template.Spec.Containers[0].Image] = replicas(set)
	}
	return sizes
}

func (w *world) progressing() string {
	c := condition(&w.d.Status, appsv1.DeploymentProgressing)
	if c == nil {
		return ""
	}
	return string(c.Status) + " " + c.Reason
}

func wantSizes(t *testing.T, w *world, want map[string]int32) {
	t.Helper()
	if got := w.sizes(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("sizes %v, want %v", got, want)
	}
}

func wantProgressing(t *testing.T, w *world, want string) {
	t.Helper()
	if got := w.progressing(); got != want {
		t.Errorf("Progressing is %q, want %q", got, want)
	}
}

func TestRollsOutStepByStep(t *testing.T) {
	w := makeWorld(4, intstr.FromInt32(1), intstr.FromInt32(1))
	w.pass()
	wantSizes(t, w, map[string]int32{"v1": 4})
	wantProgressing(t, w, "True NewReplicaSetCreated")
	set := w.sets[0]
	hash := set.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	if set.Name != "web-"+hash || set.Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] != hash || set.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] != hash || hash == "" {
		t.Errorf("replica set %q with labels %v, selector %v: want all to have one hash", set.Name, set.Spec.Template.Labels, set.Spec.Selector.MatchLabels)
	}
	if a := set.Annotations; a[revisionAnnotation] != "1" || a[desiredAnnotation] != "4" || a[mostAnnotation] != "5" {
		t.Errorf("annotations %v, want revision 1, 4 desired of at most 5", a)
	}
	w.settle(t, "")
	wantProgressing(t, w, "True NewReplicaSetAvailable")
	if c := condition(&w.d.Status, appsv1.DeploymentAvailable); c == nil || c.Status != corev1.ConditionTrue {
		t.Errorf("Available is %v, want True", c)
	}

	w.image("v2")
	w.pass() // one more, and one less
	wantSizes(t, w, map[string]int32{"v1": 3, "v2": 1})
	w.pass() // the pods have not followed: nothing may move on but the size that is free
	wantSizes(t, w, map[string]int32{"v1": 3, "v2": 2})
	w.pass()
	wantSizes(t, w, map[string]int32{"v1": 3, "v2": 2})
	w.pods("v2")
	w.pass()
	wantSizes(t, w, map[string]int32{"v1": 3, "v2": 2})
	wantProgressing(t, w, "True ReplicaSetUpdated")
	w.settle(t, "")
	wantSizes(t, w, map[string]int32{"v1": 0, "v2": 4})
	wantProgressing(t, w, "True NewReplicaSetAvailable")
	if got := w.d.Annotations[revisionAnnotation]; got != "2" {
		t.Errorf("revision %q, want 2", got)
	}

	// Back to a revision that is still there: it becomes the newest, and its set is used again.
	w.image("v1")
	w.settle(t, "")
	wantSizes(t, w, map[string]int32{"v1": 4, "v2": 0})
	if a := w.sets[0].Annotations; a[revisionAnnotation] != "3" || a[historyAnnotation] != "1" || w.made != 2 {
		t.Errorf("annotations %v with %d sets made, want revision 3 that was 1, and 2 sets", a, w.made)
	}
}

func TestRolloutThatIsStuckTimesOut(t *testing.T) {
	w := makeWorld(4, intstr.FromInt32(1), intstr.FromInt32(1))
	w.settle(t, "")
	w.image("bad")
	w.settle(t, "bad")
	wantSizes(t, w, map[string]int32{"v1": 3, "bad": 2})
	p := makePlan(w.d, w.sets, nil, w.now)
	if p.again != 601*time.Second {
		t.Errorf("looks again in %v, want 601s", p.again)
	}
	w.now = w.now.Add(p.again)
	w.pass()
	wantProgressing(t, w, "False ProgressDeadlineExceeded")
	if w.pass() != 0 || makePlan(w.d, w.sets, nil, w.now).again != 0 {
		t.Error("a rollout that has timed out is still looked at")
	}
	w.image("v1") // undo
	w.settle(t, "bad")
	wantSizes(t, w, map[string]int32{"v1": 4, "bad": 0})
	wantProgressing(t, w, "True NewReplicaSetAvailable")
	// Pods that fail later are no rollout.
	w.pods("v1")
	w.now = w.now.Add(time.Hour)
	w.pass()
	wantProgressing(t, w, "True NewReplicaSetAvailable")
	if c := condition(&w.d.Status, appsv1.DeploymentAvailable); c.Status != corev1.ConditionFalse {
		t.Errorf("Available is %v without pods, want False", c.Status)
	}
}

func TestPauses(t *testing.T) {
	w := makeWorld(10, intstr.FromInt32(2), intstr.FromInt32(2))
	w.settle(t, "")
	w.image("v2")
	w.pass()
	w.pods("v2")
	w.pass()
	w.update(func(s *appsv1.DeploymentSpec) { s.Paused = true })
	before := w.sizes()
	w.settle(t, "")
	wantSizes(t, w, before)
	wantProgressing(t, w, "Unknown DeploymentPaused")
	// It can be scaled, in proportion.
	w.scale(20)
	w.settle(t, "")
	if got := w.sizes(); got["v1"]+got["v2"] != 22 || got["v1"] < 14 || got["v2"] < 7 {
		t.Errorf("sizes %v from %v of 10, want about twice as many", got, before)
	}
	w.update(func(s *appsv1.DeploymentSpec) { s.Paused = false })
	w.pass()
	wantProgressing(t, w, "Unknown DeploymentResumed")
	w.settle(t, "")
	wantSizes(t, w, map[string]int32{"v1": 0, "v2": 20})
}

func TestRecreateRunsNoTwoRevisions(t *testing.T) {
	w := makeWorld(3, intstr.FromInt32(1), intstr.FromInt32(1))
	w.d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	w.settle(t, "")
	w.image("v2")
	w.pass()
	wantSizes(t, w, map[string]int32{"v1": 0})
	w.pass() // its pods still run
	wantSizes(t, w, map[string]int32{"v1": 0})
	w.sets[0].Status = appsv1.ReplicaSetStatus{TerminatingReplicas: ptr.To(int32(1)), ObservedGeneration: 2}
	w.pass() // one is on its way out
	wantSizes(t, w, map[string]int32{"v1": 0})
	w.settle(t, "")
	wantSizes(t, w, map[string]int32{"v1": 0, "v2": 3})
}

func TestKeepsAsMuchHistoryAsAskedFor(t *testing.T) {
	w := makeWorld(2, intstr.FromInt32(1), intstr.FromInt32(0))
	w.d.Spec.RevisionHistoryLimit = ptr.To(int32(2))
	for i := range 6 {
		w.image(fmt.Sprint("v", i))
		w.settle(t, "")
	}
	wantSizes(t, w, map[string]int32{"v3": 0, "v4": 0, "v5": 2})
	w.image("v3")
	w.settle(t, "")
	w.image("v6")
	w.settle(t, "")
	wantSizes(t, w, map[string]int32{"v3": 0, "v5": 0, "v6": 2})
}

func TestHistoryOfOneRevisionIsBounded(t *testing.T) {
	set := &appsv1.ReplicaSet{}
	for i := range int64(2000) {
		annotate(set, &appsv1.Deployment{}, i+1)
	}
	history := set.Annotations[historyAnnotation]
	if len(history) > historyCharsMost || !strings.HasSuffix(history, ",1998,1999") || set.Annotations[revisionAnnotation] != "2000" {
		t.Errorf("history of %d characters that ends %q, want at most %d with the last revisions", len(history), history[len(history)-20:], historyCharsMost)
	}
}

func TestCollisionsChangeTheHash(t *testing.T) {
	tmpl := template("v1")
	a, b, again := controller.TemplateHash(&tmpl, nil), controller.TemplateHash(&tmpl, ptr.To(int32(1))), controller.TemplateHash(&tmpl, nil)
	if a == b || a != again {
		t.Errorf("hashes %s, %s with a collision, and %s: want the first and last alike, the second not", a, b, again)
	}
	if name := setName(strings.Repeat("x", 253), a); len(name) != 253 || !strings.HasSuffix(name, "-"+a) {
		t.Errorf("name %q of %d characters, want 253 with the hash", name, len(name))
	}
}

// Whatever users do meanwhile and however pods come and go, the fences hold at every
// step: never more pods asked for than wanted plus surge, unless users took some
// away, and no available pod is taken while too few are. In the end all are new.
func TestFencesHoldAtEveryStep(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 3))
		fence := func() intstr.IntOrString {
			if r.IntN(2) == 0 {
				return intstr.FromInt32(int32(r.IntN(4)))
			}
			return intstr.FromString(fmt.Sprintf("%d%%", r.IntN(101)))
		}
		want := int32(1 + r.IntN(12))
		w := makeWorld(want, fence(), fence())
		w.settle(t, "")
		version := 0
		for range 40 {
			if r.IntN(6) == 0 {
				version++
				w.image(fmt.Sprint("v", r.IntN(version+1)+1))
			}
			for _, set := range w.sets { // some pods follow, some become ready, some fail
				if r.IntN(4) == 0 {
					continue // and some sets have yet to say so
				}
				s := &set.Status
				s.Replicas += min(1, replicas(set)-s.Replicas)
				if s.Replicas > replicas(set) {
					s.Replicas--
				}
				s.ReadyReplicas = min(s.Replicas, s.ReadyReplicas+int32(r.IntN(3)))
				s.AvailableReplicas = s.ReadyReplicas
				s.ObservedGeneration = set.Generation
			}
			before := map[types.UID]*appsv1.ReplicaSet{}
			for _, set := range w.sets {
				before[set.UID] = set.DeepCopy()
			}
			w.pass()
			roll := rollout{d: w.d}
			if total := sum(w.sets, replicas); total > want+roll.surge() {
				t.Fatalf("seed %d: %d pods asked for, want at most %d: %v", seed, total, want+roll.surge(), w.sizes())
			}
			// Should all pods that are not needed to be available go first, enough are left.
			left := int32(0)
			taken := false
			for _, set := range w.sets {
				left += min(available(set), replicas(set))
				if was := before[set.UID]; was != nil && min(available(was), replicas(was)) > min(available(set), replicas(set)) {
					taken = true
				}
			}
			if taken && left < want-roll.unavailable() {
				t.Fatalf("seed %d: %d available pods are left, want %d: %v", seed, left, want-roll.unavailable(), w.sizes())
			}
		}
		w.image("last")
		w.settle(t, "")
		if got := w.sizes(); got["last"] != want || sum(w.sets, replicas) != want {
			t.Fatalf("seed %d: sizes %v in the end, want %d of the last", seed, got, want)
		}
	}
}
