package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/test/bench/measure"
	"github.com/musterhq/muster/test/bench/process"
)

const (
	// scaleLimit is for all pods of a step to run.
	scaleLimit = 40 * time.Minute
	// probedAtRest is for how long requests are timed when nothing else happens.
	probedAtRest = 20 * time.Second
)

// scaling fills a cluster of whole agents with so many pods for each node, and
// measures what that takes, what the cluster then costs, and how long requests
// take meanwhile and in it.
type scaling struct{ each int }

// steps are for one cluster, in this order. Nodes are lost last, under a
// Deployment that has a pod for each node.
func (s scaling) steps(nodes int) []step {
	one := deploying{deployments: 1, replicas: nodes}
	return []step{
		{"scale/join", 0, s.join},
		{"scale/fill", 0, s.fill},
		{"scale/rest", 0, idleCase},
		{"scale/requests", 0, s.requests},
		{"scale/deployment", 0, one.create},
		{"scale/loss", 0, one.lose},
	}
}

// join tells what it took until all nodes were ready, which they are.
func (s scaling) join(_ context.Context, l *lab) (Result, error) {
	costs, err := l.used()
	if err != nil {
		return Result{}, err
	}
	figures := []Figure{{Name: "all nodes are ready after, s", Value: l.joined.Seconds()}}
	figures = append(figures, costs.minus(usedUp{}, "until then")...)
	memory, err := l.memory()
	return Result{Figures: append(figures, memory...)}, err
}

// fill creates the pods as fast as the clients can and waits until each runs.
func (s scaling) fill(ctx context.Context, l *lab) (Result, error) {
	count := s.each * l.nodes
	if err := l.addNamespace(ctx, namespaceMeasured, team); err != nil {
		return Result{}, err
	}
	probes, err := l.newProbes(ctx)
	if err != nil {
		return Result{}, err
	}
	watching, hangUp := context.WithCancel(ctx)
	running, err := l.watchPods(watching, "status.phase=Running")
	if err != nil {
		hangUp()
		return Result{}, err
	}
	defer func() { hangUp(); <-running.done }()
	before, err := l.used()
	if err != nil {
		return Result{}, err
	}
	probing, enough := context.WithCancel(ctx)
	defer enough()
	probed := make(chan struct{})
	go func() { defer close(probed); probes.run(probing) }()
	began := time.Now()
	result, err := l.timed(ctx, count, func(ctx context.Context, _ *tally) (time.Time, error) {
		return time.Time{}, l.all(ctx, count, func(ctx context.Context, client *kubernetes.Clientset, i int) error {
			return createPod(ctx, client, namespaceMeasured, podName(i), "", patient(podDefault()))
		})
	})
	if err == nil && !result.Cut {
		measure.Progress("  %s", result)
		err = running.await(ctx, l, count)
	}
	enough()
	<-probed
	if err != nil || result.Cut {
		return result, err
	}
	result.Figures = append(result.Figures, Figure{Name: fmt.Sprintf("%d pods run after, s", count), Value: time.Since(began).Seconds()})
	after, err := l.used()
	if err != nil {
		return Result{}, err
	}
	result.Figures = append(result.Figures, after.minus(before, "until then")...)
	found, err := probes.figures("meanwhile")
	if err != nil {
		return Result{}, err
	}
	memory, err := l.memory()
	result.Figures = append(append(result.Figures, found...), memory...)
	return result, err
}

// patient has a pod bear its node's silence for as long as Kubernetes' default does: of
// thousands of agents that share the processors with who hears them, some are late,
// and nobody makes these pods anew.
func patient(pod *corev1.Pod) *corev1.Pod {
	for _, key := range []string{corev1.TaintNodeUnreachable, corev1.TaintNodeNotReady} {
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](300),
		})
	}
	return pod
}

// requests are timed in the full cluster while nothing else happens.
func (s scaling) requests(ctx context.Context, l *lab) (Result, error) {
	probes, err := l.newProbes(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := l.rest(ctx); err != nil {
		return Result{}, err
	}
	defer l.profile(ctx)()
	probing, enough := context.WithTimeout(ctx, probedAtRest)
	defer enough()
	probes.run(probing)
	found, err := probes.figures("at rest")
	if err != nil {
		return Result{}, err
	}
	memory, err := l.memory()
	return Result{Figures: append(found, memory...)}, err
}

// usedUp is the processor time that the two sides have taken.
type usedUp struct{ servers, agents time.Duration }

func (l *lab) used() (sum usedUp, err error) {
	servers, err := l.Costs().Servers()
	if err != nil {
		return sum, err
	}
	sum.servers = servers.CPU
	for _, p := range l.hollow {
		used, err := p.Usage()
		if err != nil {
			return sum, err
		}
		sum.agents += used.CPU
	}
	return sum, nil
}

func (u usedUp) minus(before usedUp, when string) []Figure {
	return []Figure{
		{Name: "CPU of all control nodes " + when + ", s", Value: (u.servers - before.servers).Seconds()},
		{Name: "CPU of all agents " + when + ", s", Value: (u.agents - before.agents).Seconds()},
	}
}

// memory is what the processes hold, those of the agents all together.
func (l *lab) memory() ([]Figure, error) {
	servers, err := l.Residences()
	if err != nil {
		return nil, err
	}
	var most, agents process.Residence
	for _, r := range servers {
		most.RSS, most.Peak = max(most.RSS, r.RSS), max(most.Peak, r.Peak)
	}
	for _, p := range l.hollow {
		r, err := p.Residence()
		if err != nil {
			return nil, err
		}
		agents.RSS += r.RSS
	}
	return []Figure{
		{Name: "memory of the largest control node, MiB", Value: most.RSS},
		{Name: "the most of it ever, MiB", Value: most.Peak},
		{Name: "memory of all agents, MiB", Value: agents.RSS},
	}, nil
}
