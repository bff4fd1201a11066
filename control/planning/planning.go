// Package planning says what objects that would be stored mean for pods: which would
// be made, replaced and taken away, as the controllers work it out, and what else the
// scheduler has to know of. Where pods go is the scheduler's business, and what the
// objects are like once they are admitted the caller's.
package planning

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/controller/cronjob"
	"github.com/musterhq/muster/control/controller/daemonset"
	"github.com/musterhq/muster/control/controller/deployment"
	"github.com/musterhq/muster/control/controller/job"
	"github.com/musterhq/muster/control/controller/replication"
	"github.com/musterhq/muster/control/controller/statefulset"
	"github.com/musterhq/muster/control/scheduler"
)

// Object is one that would be stored.
type Object struct {
	// Object is what it would be, as JSON.
	Object []byte
	// Like is a pod of its template as it would be stored; nil where there is none, and
	// for Pods, which are so themselves.
	Like *corev1.Pod
	// Claims are such of a StatefulSet's templates.
	Claims []*corev1.PersistentVolumeClaim
}

// plan is being made.
type plan struct {
	caches *controller.Caches
	now    time.Time
	made   scheduler.Planned
	of     []int // objects that outlooks are of
	pods   int   // of all outlooks
}

// Of is what objects mean that would be stored in this order, and which of them each
// outlook is of. Those that mean nothing for pods are passed over. More pods than
// scheduler.PlanMost are scheduler.ErrPlanTooLarge, and are not made.
func Of(caches *controller.Caches, objects []Object, now time.Time) (scheduler.Planned, []int, error) {
	p := &plan{caches: caches, now: now}
	for i, object := range objects {
		outlook, err := p.look(object)
		if err == nil && outlook != nil {
			if p.pods += outlook.Want(); p.pods > scheduler.PlanMost {
				err = scheduler.ErrPlanTooLarge
			}
		}
		if err != nil {
			return scheduler.Planned{}, nil, fmt.Errorf("%s: %w", called(i, object.Object), err)
		}
		if outlook != nil {
			p.made.Outlooks, p.of = append(p.made.Outlooks, *outlook), append(p.of, i)
		}
	}
	return p.made, p.of, nil
}

// called is what messages call an object.
func called(i int, raw []byte) string {
	object, err := read[metav1.PartialObjectMetadata](raw)
	if err != nil || object.Name == "" {
		return fmt.Sprintf("object %d", i)
	}
	return fmt.Sprintf("%s %s", object.Kind, types.NamespacedName{Namespace: object.Namespace, Name: object.Name})
}

// read decodes an object.
func read[T any](raw []byte) (*T, error) {
	object := new(T)
	return object, json.Unmarshal(raw, object)
}

// errNoLike says that a pod of a template is missing.
var errNoLike = errors.New("no pod of its template")

// errNegative says that an object asks for fewer pods than none.
var errNegative = errors.New("a negative number of pods")

// bounded looks at how many pods an object asks for before any is made.
func bounded(raw []byte) error {
	type job struct{ Parallelism, Completions *int32 }
	object, err := read[struct {
		Spec struct {
			job
			Replicas    *int32
			JobTemplate struct{ Spec job }
		}
	}](raw)
	if err != nil {
		return err
	}
	atOnce := func(j job) int32 { return min(ptr.Deref(j.Parallelism, 1), ptr.Deref(j.Completions, math.MaxInt32)) }
	for _, pods := range []int32{ptr.Deref(object.Spec.Replicas, 1), atOnce(object.Spec.job), atOnce(object.Spec.JobTemplate.Spec)} {
		switch {
		case pods < 0:
			return errNegative
		case pods > scheduler.PlanMost:
			return scheduler.ErrPlanTooLarge
		}
	}
	return nil
}

// look takes an object up; without an outlook it keeps no pods. What controllers take for
// granted of stored objects, as defaults and what validation refuses, may be wrong of this one.
func (p *plan) look(object Object) (outlook *controller.Outlook, err error) {
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("it is not as it would be stored: %v", problem)
		}
	}()
	kind, err := read[metav1.TypeMeta](object.Object)
	if err != nil {
		return nil, err
	}
	keeps := map[string]func(Object) (controller.Outlook, error){
		"apps/v1 Deployment": p.deployment, "apps/v1 ReplicaSet": p.replicaSet, "v1 ReplicationController": p.replicationController,
		"apps/v1 StatefulSet": p.statefulSet, "apps/v1 DaemonSet": p.daemonSet, "batch/v1 Job": p.job, "batch/v1 CronJob": p.cronJob,
	}
	also := &p.made.Also
	switch name := kind.APIVersion + " " + kind.Kind; name {
	case "v1 Pod":
		return p.pod(object.Object)
	case "v1 Namespace":
		return nil, add(&also.Namespaces, object.Object)
	case "v1 Service":
		return nil, add(&also.Services, object.Object)
	case "v1 Node":
		return nil, add(&also.Nodes, object.Object)
	case "v1 PersistentVolume":
		return nil, add(&also.Volumes, object.Object)
	case "v1 PersistentVolumeClaim":
		return nil, add(&also.Claims, object.Object)
	case "storage.k8s.io/v1 StorageClass":
		return nil, add(&also.StorageClasses, object.Object)
	default:
		look, ok := keeps[name]
		if !ok {
			return nil, nil
		}
		if object.Like == nil {
			return nil, errNoLike
		}
		if err := bounded(object.Object); err != nil {
			return nil, err
		}
		outlook, err := look(object)
		return &outlook, err
	}
}

func add[T any](list *[]*T, raw []byte) error {
	object, err := read[T](raw)
	*list = append(*list, object)
	return err
}

func (p *plan) pod(raw []byte) (*controller.Outlook, error) {
	pod, err := read[corev1.Pod](raw)
	if err != nil {
		return nil, err
	}
	if _, there := p.caches.Pods.Get(pod.Namespace, pod.Name); there {
		return nil, nil // it stays where it is
	}
	return &controller.Outlook{Come: []controller.Coming{{Pod: controller.Another(pod, pod.Name)}}}, nil
}

func (p *plan) deployment(object Object) (controller.Outlook, error) {
	d, err := read[appsv1.Deployment](object.Object)
	if err != nil {
		return controller.Outlook{}, err
	}
	active := func(set *appsv1.ReplicaSet) []*corev1.Pod {
		return replication.Ranked(p.caches.ActivePods(set.UID), p.now)
	}
	outlook, fresh := deployment.Outlook(d, p.caches.ReplicaSets.ByIndex(controller.ByController, string(d.UID)), active, object.Like)
	if fresh != nil {
		p.made.Also.ReplicaSets = append(p.made.Also.ReplicaSets, fresh)
	}
	return outlook, nil
}

func (p *plan) replicaSet(object Object) (controller.Outlook, error) {
	set, err := read[appsv1.ReplicaSet](object.Object)
	p.made.Also.ReplicaSets = append(p.made.Also.ReplicaSets, set)
	return p.replicas(set.Name, set.Spec.Replicas, p.caches.ActivePods(set.UID), object.Like), err
}

func (p *plan) replicationController(object Object) (controller.Outlook, error) {
	rc, err := read[corev1.ReplicationController](object.Object)
	p.made.Also.ReplicationControllers = append(p.made.Also.ReplicationControllers, rc)
	return p.replicas(rc.Name, rc.Spec.Replicas, p.caches.ActivePods(rc.UID), object.Like), err
}

func (p *plan) replicas(name string, want *int32, has []*corev1.Pod, like *corev1.Pod) controller.Outlook {
	return replication.Outlook(name, int(ptr.Deref(want, 1)), has, like, p.now)
}

func (p *plan) statefulSet(object Object) (controller.Outlook, error) {
	set, err := read[appsv1.StatefulSet](object.Object)
	if err != nil {
		return controller.Outlook{}, err
	}
	p.made.Also.StatefulSets = append(p.made.Also.StatefulSets, set)
	owned, _, _ := controller.Revisions(p.caches.ControllerRevisions, set, controller.SelectorOf(set.Spec.Selector))
	claim := func(name string) *corev1.PersistentVolumeClaim {
		if there, ok := p.caches.PersistentVolumeClaims.Get(set.Namespace, name); ok {
			return there
		}
		at := slices.IndexFunc(p.made.Also.Claims, func(c *corev1.PersistentVolumeClaim) bool { return c.Namespace == set.Namespace && c.Name == name })
		if at < 0 {
			return nil
		}
		return p.made.Also.Claims[at]
	}
	return statefulset.Outlook(set, owned, p.caches.ActivePods(set.UID), claim, statefulset.Like{Pod: object.Like, Claims: object.Claims})
}

func (p *plan) daemonSet(object Object) (controller.Outlook, error) {
	ds, err := read[appsv1.DaemonSet](object.Object)
	if err != nil {
		return controller.Outlook{}, err
	}
	owned, _, _ := controller.Revisions(p.caches.ControllerRevisions, ds, controller.SelectorOf(ds.Spec.Selector))
	return daemonset.Outlook(ds, owned, p.nodes(), p.caches.ActivePods(ds.UID), object.Like)
}

// nodes are those that there would be.
func (p *plan) nodes() []*corev1.Node {
	changed := p.made.Also.Nodes
	kept := slices.DeleteFunc(p.caches.Nodes.List(), func(node *corev1.Node) bool {
		return slices.ContainsFunc(changed, func(c *corev1.Node) bool { return c.Name == node.Name })
	})
	return append(kept, changed...)
}

func (p *plan) job(object Object) (controller.Outlook, error) {
	it, err := read[batchv1.Job](object.Object)
	if err != nil {
		return controller.Outlook{}, err
	}
	return job.Outlook(it, p.caches.Pods.ByIndex(controller.ByController, string(it.UID)), object.Like, p.now), nil
}

// cronJob is its next run, as if that came now; the jobs that run go on.
func (p *plan) cronJob(object Object) (controller.Outlook, error) {
	cj, err := read[batchv1.CronJob](object.Object)
	if err != nil {
		return controller.Outlook{}, err
	}
	next, at, err := cronjob.Next(cj, p.now)
	if err != nil {
		return controller.Outlook{Notes: []string{err.Error()}}, nil
	}
	outlook := job.Outlook(next, nil, object.Like, p.now)
	outlook.Notes = append([]string{"next run " + at.UTC().Format(time.RFC3339) + ", as if it were now"}, outlook.Notes...)
	return outlook, nil
}
