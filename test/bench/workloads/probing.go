package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/musterhq/muster/test/bench/measure"
)

const (
	// probeEach is how often each kind of request is made: seldom enough to cost
	// little beside what it is made beside.
	probeEach = 100 * time.Millisecond
	// probePage is a page of a list, as kubectl asks for.
	probePage = 500
)

// probes are clients of a cluster that does something else, each with requests of
// one kind and a connection of its own: how long do they wait for an answer?
type probes struct{ all []*probe }

type probe struct {
	verb      string
	do        func(ctx context.Context, turn int) error
	latencies measure.Latencies
	failures  measure.Failures
}

// gated pods are nobody's to place, so that those of probes change nothing else.
func gated() *corev1.Pod {
	p := podDefault()
	p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "bench.muster.dev/probe"}}
	return p
}

// newProbes makes what they ask for.
func (l *lab) newProbes(ctx context.Context) (*probes, error) {
	l.probed++
	namespace := fmt.Sprintf("probes-%d", l.probed)
	if err := l.addNamespace(ctx, namespace, nil); err != nil {
		return nil, err
	}
	const known = "known"
	if err := createPod(ctx, l.clients[0], namespace, known, "", gated()); err != nil {
		return nil, err
	}
	var p probes
	for _, kind := range []struct {
		verb string
		do   func(ctx context.Context, client *kubernetes.Clientset, turn int) error
	}{
		{"get", func(ctx context.Context, client *kubernetes.Clientset, _ int) error {
			_, err := client.CoreV1().Pods(namespace).Get(ctx, known, metav1.GetOptions{})
			return err
		}},
		{"list of 500", func(ctx context.Context, client *kubernetes.Clientset, _ int) error {
			// Decoding is the client's time.
			return client.CoreV1().RESTClient().Get().Namespace(namespaceMeasured).Resource("pods").
				Param("limit", fmt.Sprint(probePage)).Do(ctx).Error()
		}},
		{"create", func(ctx context.Context, client *kubernetes.Clientset, turn int) error {
			return createPod(ctx, client, namespace, podName(turn), "", gated())
		}},
		{"patch", func(ctx context.Context, client *kubernetes.Clientset, turn int) error {
			_, err := client.CoreV1().Pods(namespace).Patch(ctx, known, types.MergePatchType,
				fmt.Appendf(nil, `{"metadata":{"annotations":{"turn":"%d"}}}`, turn), metav1.PatchOptions{})
			return err
		}},
	} {
		client, err := l.connect(len(p.all))
		if err != nil {
			return nil, err
		}
		p.all = append(p.all, &probe{verb: kind.verb, do: func(ctx context.Context, turn int) error { return kind.do(ctx, client, turn) }})
	}
	return &p, nil
}

// run probes until ctx ends. A request that waits holds up the next of its kind.
func (p *probes) run(ctx context.Context) {
	var all sync.WaitGroup
	for _, one := range p.all {
		all.Go(func() { one.run(ctx) })
	}
	all.Wait()
}

func (p *probe) run(ctx context.Context) {
	tick := time.NewTicker(probeEach)
	defer tick.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked := time.Now()
		switch err := p.do(ctx, turn); {
		case ctx.Err() != nil:
			return
		case err != nil:
			p.failures.Add(err)
		default:
			p.latencies.Record(time.Since(asked))
		}
	}
}

// figures are those of all that has been asked; a request that failed spoils them.
func (p *probes) figures(when string) (figures []Figure, err error) {
	for _, one := range p.all {
		if one.failures.Count > 0 {
			err = errors.Join(err, fmt.Errorf("%d of %d probes failed: %s: %s", one.failures.Count, one.latencies.Count()+one.failures.Count, one.verb, one.failures.First))
		}
		figures = append(figures,
			Figure{Name: one.verb + " " + when + ", p50 ms", Value: measure.Milliseconds(one.latencies.Quantile(.5))},
			Figure{Name: one.verb + " " + when + ", p99 ms", Value: measure.Milliseconds(one.latencies.Quantile(.99))})
	}
	return figures, err
}
