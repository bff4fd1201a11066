package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/musterhq/muster/test/bench/measure"
	"github.com/musterhq/muster/test/bench/system"
)

const (
	victims = 10 // nodes that die at once
	// lossTimeout is longer than Kubernetes' defaults take: 50 s without a lease
	// and 300 s of toleration.
	lossTimeout = 8 * time.Minute
)

// lose kills nodes under the pods of a Deployment, and measures from then until
// each of the pods that were on them is replaced by one that is ready elsewhere.
// The nodes' processes are stopped where they are: their connections stay open,
// as when a host's power fails.
func (d deploying) lose(ctx context.Context, l *lab) (Result, error) {
	if cut, err := d.awaitUpdated(ctx, l, deployment(0, 0).Name, 0); cut || err != nil {
		return Result{}, errors.Join(err, errNotReady)
	}
	if err := l.rest(ctx); err != nil {
		return Result{}, err
	}
	list, err := l.clients[0].CoreV1().Pods(namespaceDeployed).List(ctx, metav1.ListOptions{})
	if err != nil {
		return Result{}, err
	}
	before, lost := map[string]bool{}, 0
	for _, p := range list.Items {
		before[p.Name] = true
		if l.isVictim(p.Spec.NodeName) {
			lost++
		}
	}
	if lost == 0 {
		return Result{}, errors.New("no pod is on a node that is to die")
	}
	ctx, cancel := context.WithTimeout(ctx, lossTimeout)
	defer cancel()
	client, err := l.connect(0)
	if err != nil {
		return Result{}, err
	}
	events, err := client.CoreV1().Pods(namespaceDeployed).Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return Result{}, err
	}
	defer events.Stop()
	killed := time.Now()
	if err := l.killVictims(); err != nil {
		return Result{}, err
	}
	var times []float64
	for len(times) < lost {
		event, ok := <-events.ResultChan()
		if !ok {
			return Result{}, fmt.Errorf("%d of %d lost pods are replaced after %v", len(times), lost, time.Since(killed).Round(time.Second))
		}
		pod, ok := event.Object.(*corev1.Pod)
		if !ok || event.Type == watch.Deleted || before[pod.Name] || !podReady(pod) {
			continue
		}
		before[pod.Name] = true
		times = append(times, time.Since(killed).Seconds())
	}
	return Result{Figures: []Figure{
		{Name: fmt.Sprintf("%d pods of %d lost nodes: ready elsewhere, p50 s", lost, l.victims), Value: measure.Median(times), Most: 5},
		{Name: "the last of them, s", Value: slices.Max(times), Most: 8},
	}}, nil
}

func (l *lab) isVictim(node string) bool {
	for i := range l.victims {
		if node == nodeName(i) {
			return true
		}
	}
	return false
}

func (l *lab) killVictims() error {
	l.dead.Store(true)
	if _, ours := l.System.(system.Muster); !ours {
		return nil
	}
	// They have the first processes, one each.
	for _, p := range l.hollow[:l.victims] {
		if err := p.Pause(); err != nil {
			return err
		}
	}
	return nil
}

func podReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
