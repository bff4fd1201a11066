package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/musterhq/muster/test/bench/measure"
)

// deploying has controllers make pods.
type deploying struct {
	deployments, replicas int // replicas of each
}

// create measures from the first creation of a Deployment to the last binding.
func (d deploying) create(ctx context.Context, l *lab) (Result, error) {
	if err := l.addNamespace(ctx, namespaceDeployed, nil); err != nil {
		return Result{}, err
	}
	return l.timed(ctx, d.deployments*d.replicas, func(ctx context.Context, _ *tally) (time.Time, error) {
		return time.Time{}, l.all(ctx, d.deployments, func(ctx context.Context, client *kubernetes.Clientset, i int) error {
			_, err := client.AppsV1().Deployments(namespaceDeployed).Create(ctx, deployment(i, d.replicas), metav1.CreateOptions{})
			return err
		})
	})
}

var errNotReady = errors.New("the pods do not become ready in time")

func deployment(i, replicas int) *appsv1.Deployment {
	count, labels := int32(replicas), map[string]string{"app": fmt.Sprintf("app-%04d", i)}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: labels["app"]},
		Spec:       appsv1.DeploymentSpec{Replicas: &count, Selector: &metav1.LabelSelector{MatchLabels: labels}},
	}
	pod := podDefault()
	d.Spec.Template.Labels, d.Spec.Template.Spec = labels, pod.Spec
	return d
}

// update is a rolling update of one Deployment whose pods are there: from the
// change of its template until its status says that all pods are new and
// available, and no other is left.
func (d deploying) update(ctx context.Context, l *lab) (Result, error) {
	name := deployment(0, 0).Name
	deployments := l.clients[0].AppsV1().Deployments(namespaceDeployed)
	if cut, err := d.awaitUpdated(ctx, l, name, 0); cut || err != nil {
		return Result{}, errors.Join(err, errNotReady)
	}
	defer l.profile(ctx)()
	meter, err := l.Costs().Begin()
	if err != nil {
		return Result{}, err
	}
	begin := time.Now()
	patched, err := deployments.Patch(ctx, name, types.StrategicMergePatchType,
		[]byte(`{"spec":{"template":{"metadata":{"annotations":{"bench":"update"}}}}}`), metav1.PatchOptions{})
	if err != nil {
		return Result{}, err
	}
	cut, err := d.awaitUpdated(ctx, l, name, patched.Generation)
	if err != nil {
		return Result{}, err
	}
	took := time.Since(begin)
	round, err := meter.End()
	if err != nil {
		return Result{}, err
	}
	var each measure.Latencies
	done := d.replicas
	if cut {
		now, err := deployments.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return Result{}, err
		}
		done = int(now.Status.UpdatedReplicas)
	}
	for range done {
		each.Record(took)
	}
	round.Seconds = took.Seconds()
	round.Measured(&each)
	return Result{Round: round, Cut: cut}, nil
}

// awaitUpdated watches a Deployment until all of it is of the generation, or
// for the limit of a case.
func (d deploying) awaitUpdated(ctx context.Context, l *lab, name string, generation int64) (cut bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.most())
	defer cancel()
	client, err := l.connect(0)
	if err != nil {
		return false, err
	}
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()}
	for ctx.Err() == nil {
		events, err := client.AppsV1().Deployments(namespaceDeployed).Watch(ctx, options)
		if err != nil {
			return ctx.Err() != nil, err
		}
		for event := range events.ResultChan() {
			if now, ok := event.Object.(*appsv1.Deployment); ok && event.Type != watch.Deleted && d.isUpdated(now, generation) {
				events.Stop()
				return false, nil
			}
		}
		if err := l.alive(); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (d deploying) isUpdated(now *appsv1.Deployment, generation int64) bool {
	all, s := int32(d.replicas), now.Status
	return s.ObservedGeneration >= generation && s.Replicas == all && s.UpdatedReplicas == all && s.AvailableReplicas == all
}
