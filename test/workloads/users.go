package workloads

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	quantity "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// User does something with the cluster from beginning to end, and leaves nothing
// behind.
type User struct {
	Name string
	act  func(w *world)
}

// Everybody is all users.
var Everybody = []User{
	{"rolling update", rollOut},
	{"job", runJob},
	{"stateful set", scaleStateful},
	{"daemon set", updateDaemons},
}

// reachMost is how long anything that a user waits for may take, leaders' deaths
// included.
const reachMost = 20 * time.Minute

// do does something until it is done, or ctx ends, or the answer is one about
// the object. Done twice is done.
func (w *world) do(ctx context.Context, f func() error) {
	for {
		err := f()
		if err == nil || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
			return
		}
		if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsForbidden(err) {
			w.t.Errorf("a user is refused: %v", err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryEvery):
		}
	}
}

func create[T store.Object](w *world, kind *resource.Kind, obj T) {
	w.do(w.t.Context(), func() error {
		_, err := w.client.Create(w.t.Context(), kind, metav1.NamespaceDefault, obj.DeepCopyObject().(T), resource.CreateOptions{})
		return err
	})
}

func change[T store.Object](w *world, kind *resource.Kind, name string, f func(T)) {
	w.do(w.t.Context(), func() error {
		_, _, err := w.client.Update(w.t.Context(), kind, metav1.NamespaceDefault, name, "", func(current store.Object) (store.Object, error) {
			f(current.(T))
			return current, nil
		}, resource.UpdateOptions{})
		return err
	})
}

func (w *world) remove(kind *resource.Kind, name string) {
	policy := []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground}[w.chance(2)]
	w.do(w.t.Context(), func() error {
		_, _, err := w.client.Delete(w.t.Context(), kind, metav1.NamespaceDefault, name, &metav1.DeleteOptions{PropagationPolicy: &policy})
		return err
	})
}

// reaches waits until right says "" about the object, as it is stored.
func reaches[T store.Object](w *world, spec *store.Spec, name, what string, right func(T) string) {
	last := ""
	for began := time.Now(); time.Since(began) < reachMost; time.Sleep(200 * time.Millisecond) {
		obj, err := store.Of[T](w.store, spec).Get(w.t.Context(), metav1.NamespaceDefault, name)
		if err != nil {
			last = err.Error()
			continue
		}
		if last = right(obj); last == "" {
			return
		}
	}
	w.violated(Violation{Promise: finalState, Why: fmt.Sprintf("%s: %s is not reached in %v: %s; pods: %s", name, what, reachMost, last, w.describe())})
}

// describe is what there is of pods, for the reader of a violation.
func (w *world) describe() string {
	var b strings.Builder
	for _, p := range listOf[*corev1.Pod](context.Background(), w, store.Pods) {
		fmt.Fprintf(&b, "[%s on %q: %s, ready %v, deleted %v]", p.Name, p.Spec.NodeName, p.Status.Phase, isReady(p), p.DeletionTimestamp)
	}
	for _, n := range listOf[*corev1.Node](context.Background(), w, store.Nodes) {
		fmt.Fprintf(&b, "[%s: taints %v]", n.Name, n.Spec.Taints)
	}
	return b.String()
}

// vanishes waits until the object and all that belongs to it is gone.
func vanishes[T store.Object](w *world, spec *store.Spec, name string) {
	for began := time.Now(); time.Since(began) < reachMost; time.Sleep(time.Second) {
		if _, err := store.Of[T](w.store, spec).Get(w.t.Context(), metav1.NamespaceDefault, name); errors.Is(err, store.ErrNotFound) {
			return
		}
	}
	w.violated(Violation{Promise: finalState, Why: fmt.Sprintf("%s is not gone %v after it was deleted", name, reachMost)})
}

// template is a pod that runs a command of the pretended runtime.
func template(app string, grace int64, command ...string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "main", Image: "first", Command: command,
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: quantity.MustParse("10m")}},
			}},
		},
	}
}

// deaf does not heed the first signal: it runs until its grace is over.
var deaf = []string{"sh", "-c", "trap '' TERM; serve"}

// rollOut deploys, rolls out a new version and, on the way, yet another; scales up and
// down; and takes it away.
func rollOut(w *world) {
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To(int32(6)),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: template("web", 1, "serve"),
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{
				MaxSurge: ptr.To(intstr.FromInt32(int32(w.chance(3)))), MaxUnavailable: ptr.To(intstr.FromInt32(1 + int32(w.chance(2)))),
			}},
		},
	}
	complete := func(what string) {
		reaches(w, store.Deployments, "web", what, func(d *appsv1.Deployment) string {
			n, s := *d.Spec.Replicas, d.Status
			if s.ObservedGeneration < d.Generation || s.Replicas != n || s.UpdatedReplicas != n || s.AvailableReplicas != n {
				return fmt.Sprintf("status %+v, want %d of everything", s, n)
			}
			return ""
		})
	}
	image := func(name string) {
		change(w, resource.Deployments, "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = name })
	}
	create(w, resource.Deployments, d)
	complete("the first version")
	image("second")
	complete("the second version")
	image("third")
	time.Sleep(w.upTo(5 * time.Second))
	image("fourth")
	complete("the fourth version")
	for _, n := range []int32{9, 4} {
		change(w, resource.Deployments, "web", func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To(n) })
		complete(fmt.Sprintf("%d replicas", n))
	}
	image("second") // as an undo does
	complete("the second version again")
	w.remove(resource.Deployments, "web")
	vanishes[*appsv1.Deployment](w, store.Deployments, "web")
}

// runJob runs an indexed job, some of whose pods fail, and one without indices.
func runJob(w *world) {
	fails := template("sum", 1, "sh", "-c", "sleep 2; exit 1")
	fails.Spec.RestartPolicy = corev1.RestartPolicyNever
	works := template("sum", 1, "sleep", "1")
	works.Spec.RestartPolicy = corev1.RestartPolicyNever
	jobs := map[string]*batchv1.Job{
		"indexed": {Spec: batchv1.JobSpec{
			Completions: ptr.To(int32(10)), Parallelism: ptr.To(int32(3)), CompletionMode: ptr.To(batchv1.IndexedCompletion), Template: works,
		}},
		"plain":  {Spec: batchv1.JobSpec{Completions: ptr.To(int32(7)), Parallelism: ptr.To(int32(3)), Template: works}},
		"failed": {Spec: batchv1.JobSpec{Completions: ptr.To(int32(2)), Parallelism: ptr.To(int32(1)), BackoffLimit: ptr.To(int32(2)), Template: fails}},
	}
	for name, j := range jobs {
		j.Namespace, j.Name = metav1.NamespaceDefault, name
		create(w, resource.Jobs, j)
	}
	for name := range jobs {
		reaches(w, store.Jobs, name, "its end", func(j *batchv1.Job) string {
			for _, c := range j.Status.Conditions {
				if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
					return ""
				}
			}
			return fmt.Sprintf("status %+v", j.Status)
		})
	}
	for name := range jobs {
		w.remove(resource.Jobs, name)
	}
	for name := range jobs {
		vanishes[*batchv1.Job](w, store.Jobs, name)
	}
}

// scaleStateful scales an ordered set up and down, and updates it.
func scaleStateful(w *world) {
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To(int32(4)),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			Template: template("db", 2, deaf...),
		},
	}
	complete := func(what string) {
		reaches(w, store.StatefulSets, "db", what, func(s *appsv1.StatefulSet) string {
			n := *s.Spec.Replicas
			if s.Status.ObservedGeneration < s.Generation || s.Status.Replicas != n || s.Status.ReadyReplicas != n || s.Status.UpdatedReplicas != n || s.Status.CurrentRevision != s.Status.UpdateRevision {
				return fmt.Sprintf("status %+v, want %d of everything", s.Status, n)
			}
			return ""
		})
	}
	scale := func(n int32) {
		change(w, resource.StatefulSets, "db", func(s *appsv1.StatefulSet) { s.Spec.Replicas = ptr.To(n) })
	}
	create(w, resource.StatefulSets, set)
	complete("4 replicas")
	scale(1)
	complete("1 replica")
	scale(3)
	time.Sleep(w.upTo(3 * time.Second))
	scale(2)
	complete("2 replicas")
	change(w, resource.StatefulSets, "db", func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = "second" })
	complete("the second version")
	w.remove(resource.StatefulSets, "db")
	vanishes[*appsv1.StatefulSet](w, store.StatefulSets, "db")
}

// keepStateful has a set, ordered or not, scaled and updated now and then while
// machines are lost.
func keepStateful(w *world) {
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To(int32(4)), PodManagementPolicy: []appsv1.PodManagementPolicyType{appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement}[w.chance(2)],
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			Template: template("db", 60, deaf...),
		},
	}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} { // as admission does
		set.Spec.Template.Spec.Tolerations = append(set.Spec.Template.Spec.Tolerations, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(2))})
	}
	create(w, resource.StatefulSets, set)
	for began := time.Now(); time.Since(began) < lossesFor+time.Minute; time.Sleep(w.upTo(time.Minute)) {
		n := int32(2 + w.chance(4))
		change(w, resource.StatefulSets, "db", func(s *appsv1.StatefulSet) {
			s.Spec.Replicas = ptr.To(n)
			s.Spec.Template.Spec.Containers[0].Image = []string{"first", "second"}[n%2]
		})
	}
	reaches(w, store.StatefulSets, "db", "an end", func(s *appsv1.StatefulSet) string {
		if n := *s.Spec.Replicas; s.Status.ObservedGeneration < s.Generation || s.Status.ReadyReplicas != n || s.Status.UpdatedReplicas != n {
			return fmt.Sprintf("status %+v, want %d of everything", s.Status, n)
		}
		return ""
	})
	w.remove(resource.StatefulSets, "db")
	vanishes[*appsv1.StatefulSet](w, store.StatefulSets, "db")
}

// updateDaemons runs a daemon on every machine and updates it.
func updateDaemons(w *world) {
	set := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "logs"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "logs"}},
			Template: template("logs", 1, "serve"),
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{
				MaxUnavailable: ptr.To(intstr.FromInt32(1)), MaxSurge: ptr.To(intstr.FromInt32(0)),
			}},
		},
	}
	complete := func(what string) {
		reaches(w, store.DaemonSets, "logs", what, func(s *appsv1.DaemonSet) string {
			if s.Status.ObservedGeneration < s.Generation || s.Status.DesiredNumberScheduled != machines || s.Status.NumberAvailable != machines || s.Status.UpdatedNumberScheduled != machines {
				return fmt.Sprintf("status %+v, want %d of everything", s.Status, machines)
			}
			return ""
		})
	}
	create(w, resource.DaemonSets, set)
	complete("the first version")
	for _, image := range []string{"second", "third"} {
		change(w, resource.DaemonSets, "logs", func(s *appsv1.DaemonSet) { s.Spec.Template.Spec.Containers[0].Image = image })
		complete("version " + image)
	}
	w.remove(resource.DaemonSets, "logs")
	vanishes[*appsv1.DaemonSet](w, store.DaemonSets, "logs")
}
