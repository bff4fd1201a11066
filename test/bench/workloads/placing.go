package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/musterhq/muster/test/bench/system"
)

// placing has a scheduler find nodes for pods that are all alike.
type placing struct {
	pod   *corev1.Pod
	count int
	// before are on nodes already, so many, in namespaces that look like the one
	// that is measured.
	before      *corev1.Pod
	beforeCount int
	namespaces  int // of before; at least one
	// created says that the pods are there before the scheduler may bind.
	created bool
}

// run measures from the first creation to the last binding, or of pods that are
// there already from when the scheduler was let go, or its first binding if that
// is earlier.
func (p placing) run(ctx context.Context, l *lab) (Result, error) {
	if err := p.prepare(ctx, l); err != nil {
		return Result{}, fmt.Errorf("prepare: %w", err)
	}
	create := func(ctx context.Context) error {
		return l.all(ctx, p.count, func(ctx context.Context, client *kubernetes.Clientset, i int) error {
			return createPod(ctx, client, namespaceMeasured, podName(i), "", p.pod)
		})
	}
	if !p.created {
		return l.timed(ctx, p.count, func(ctx context.Context, _ *tally) (time.Time, error) { return time.Time{}, create(ctx) })
	}
	if err := create(ctx); err != nil {
		return Result{}, fmt.Errorf("create: %w", err)
	}
	// What creation leaves to do is not scheduling.
	if err := l.rest(ctx); err != nil {
		return Result{}, err
	}
	return l.timed(ctx, p.count, l.letGo)
}

// timed measures until so many pods were bound, which begin brings about: from
// its call, or from when it says. After the limit the case is cut short.
func (l *lab) timed(ctx context.Context, count int, begin func(context.Context, *tally) (time.Time, error)) (Result, error) {
	watching, hangUp := context.WithCancel(ctx)
	bound, err := l.watchBound(watching)
	if err != nil {
		hangUp()
		return Result{}, err
	}
	defer func() { hangUp(); <-bound.done }()
	defer l.profile(ctx)()
	meter, err := l.Costs().Begin()
	if err != nil {
		return Result{}, err
	}
	since := time.Now()
	limited, over := context.WithTimeout(ctx, l.most())
	defer over()
	group, working := errgroup.WithContext(limited)
	group.Go(func() error {
		later, err := begin(working, bound)
		if !later.IsZero() {
			since = later
		}
		return err
	})
	group.Go(func() error { return bound.await(working, l, count) })
	err = group.Wait()
	cut := limited.Err() != nil && ctx.Err() == nil
	round, metered := meter.End()
	if err != nil && !cut || metered != nil {
		return Result{}, errors.Join(err, metered)
	}
	latencies, last := bound.since(since)
	if last.IsZero() { // the limit came before the first
		last = since.Add(l.most())
	}
	round.Seconds = last.Sub(since).Seconds()
	round.Measured(latencies)
	return Result{Round: round, Cut: cut}, nil
}

func (p placing) prepare(ctx context.Context, l *lab) error {
	if err := l.addNamespace(ctx, namespaceMeasured, team); err != nil {
		return err
	}
	namespaces := []string{namespaceBefore}
	for i := 1; i < p.namespaces; i++ {
		namespaces = append(namespaces, fmt.Sprintf("%s-%d", namespaceBefore, i))
	}
	for _, name := range namespaces {
		if err := l.addNamespace(ctx, name, team); err != nil {
			return err
		}
	}
	// Nobody needs to look for nodes for them.
	return l.all(ctx, p.beforeCount, func(ctx context.Context, client *kubernetes.Clientset, i int) error {
		return createPod(ctx, client, namespaces[i%len(namespaces)], podName(i), nodeName(i%l.nodes), p.before)
	})
}

func createPod(ctx context.Context, client *kubernetes.Clientset, namespace, name, node string, like *corev1.Pod) error {
	pod := *like
	pod.Name, pod.Spec.NodeName = name, node
	// The answer is not decoded.
	return client.CoreV1().RESTClient().Post().Namespace(namespace).Resource("pods").Body(&pod).Do(ctx).Error()
}

// letGo lets a scheduler bind that was held back, and answers since when it
// does. Kubernetes' is started, and its start is not counted.
func (l *lab) letGo(ctx context.Context, bound *tally) (since time.Time, err error) {
	switch s := l.System.(type) {
	case system.Muster:
		err, since = s.Operator(ctx, l.Cluster, "scheduler", "resume"), time.Now()
	case *system.Kubernetes:
		err = s.StartScheduler(l.Cluster)
	}
	if err != nil {
		return since, err
	}
	if err := bound.await(ctx, l, 1); err != nil {
		return since, err
	}
	if first := bound.first(); since.IsZero() || first.Before(since) {
		since = first
	}
	return since, nil
}
