package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/test/bench/measure"
)

const (
	scalePods    = 20 // for each node
	scaleTime    = 10 * time.Second
	scaleClients = 4
)

// scale fills a cluster of whole agents and measures what it then costs, and how
// long requests take in it.
func scale(ctx context.Context, l *lab) (Result, error) {
	count := scalePods * l.nodes
	result, err := placing{pod: podDefault(), count: count}.run(ctx, l)
	if err != nil || result.Cut {
		return result, err
	}
	measure.Progress("  %s; now it comes to rest", result)
	if err := l.rest(ctx); err != nil {
		return Result{}, err
	}
	residences, err := l.Residences()
	if err != nil {
		return Result{}, err
	}
	result.Figures = []Figure{{Name: fmt.Sprintf("memory of the largest control node with %d pods, MiB", count), Value: largest(residences)}}
	var made atomic.Int64
	pods := l.clients[0].CoreV1()
	for _, c := range []struct {
		name string
		do   func(ctx context.Context, worker int) error
	}{
		{"get of a pod", func(ctx context.Context, worker int) error {
			_, err := l.clients[worker].CoreV1().Pods(namespaceMeasured).Get(ctx, podName(rand.IntN(count)), metav1.GetOptions{})
			return err
		}},
		{"creation of a pod", func(ctx context.Context, worker int) error {
			return createPod(ctx, l.clients[worker], namespaceBefore, podName(int(made.Add(1))), "", podDefault())
		}},
		{"list of 500 pods", func(ctx context.Context, worker int) error {
			_, err := pods.Pods(namespaceMeasured).List(ctx, metav1.ListOptions{Limit: 500})
			return err
		}},
	} {
		round, err := measure.Load{Workers: scaleClients, Warm: time.Second, Duration: scaleTime, Do: c.do}.Run(ctx, l.Costs())
		if err != nil {
			return Result{}, err
		}
		if round.Errors > 0 {
			return Result{}, fmt.Errorf("%s: %s", c.name, round.FirstError)
		}
		result.Figures = append(result.Figures, Figure{Name: c.name + " then, p99 ms", Value: round.P99})
	}
	return result, nil
}
