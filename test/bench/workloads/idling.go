package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/musterhq/muster/test/bench/measure"
	"github.com/musterhq/muster/test/bench/process"
)

const (
	idleRest = 15 * time.Second // after the nodes are there
	idleTime = 30 * time.Second
)

// idle measures what a cluster costs in which nothing happens. This program
// asks nothing meanwhile.
func idleCase(ctx context.Context, l *lab) (Result, error) {
	measure.Sleep(ctx, idleRest)
	before, err := l.looks(ctx)
	if err != nil {
		return Result{}, err
	}
	defer l.profile(ctx)()
	measure.Sleep(ctx, idleTime)
	after, err := l.looks(ctx)
	if err != nil {
		return Result{}, err
	}
	took := after.at.Sub(before.at).Seconds()
	busiest, all := 0.0, 0.0
	for i := range after.used {
		share := 100 * (after.used[i].CPU - before.used[i].CPU).Seconds() / took
		busiest, all = max(busiest, share), all+share
	}
	residences, err := l.Residences()
	if err != nil {
		return Result{}, err
	}
	return Result{Figures: []Figure{
		{Name: "store writes /s", Value: float64(after.version-before.version) / took},
		{Name: "CPU of the busiest control node, % of a core", Value: busiest, Most: 2},
		{Name: "CPU of all control nodes, % of a core", Value: all},
		{Name: "memory of the largest control node, MiB", Value: largest(residences)},
	}}, nil
}

// look is what there was at a time.
type look struct {
	at      time.Time
	version uint64
	used    []process.Usage // of each control node
}

func (l *lab) looks(ctx context.Context) (now look, err error) {
	text, err := l.version(ctx)
	if err != nil {
		return now, err
	}
	now.version, err = strconv.ParseUint(text, 10, 64)
	now.at = time.Now()
	for _, n := range l.Nodes {
		used, failed := n.Usage()
		now.used, err = append(now.used, used), errors.Join(err, failed)
	}
	return now, err
}

func largest(all []process.Residence) (most float64) {
	for _, r := range all {
		most = max(most, r.RSS)
	}
	return most
}

// Kubelets renew their leases each ten seconds, and their nodes are taken for
// lost without.
const (
	leaseEvery   = 10 * time.Second
	leaseSeconds = 40
)

// renewLeases says for Kubernetes' nodes that they are there, each from when it
// is called until its turn at which ctx, or alive for it, ends.
func (l *lab) renewLeases(ctx context.Context) error {
	leases := make([]*coordinationv1.Lease, l.nodes)
	err := l.all(ctx, l.nodes, func(ctx context.Context, client *kubernetes.Clientset, i int) (err error) {
		name, seconds, now := nodeName(i), int32(leaseSeconds), metav1.NowMicro()
		leases[i], err = client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("leases: %w", err)
	}
	var renewing sync.WaitGroup
	for w, client := range l.clients {
		renewing.Go(func() {
			for turn := time.Duration(0); ; turn++ {
				for i := w; i < len(leases); i += len(l.clients) {
					// Spread over the time, as nodes are that started one by one.
					measure.Sleep(ctx, leaseEvery*time.Duration(len(l.clients))/time.Duration(len(leases)))
					if ctx.Err() != nil {
						return
					}
					if i < l.victims && l.dead.Load() {
						continue
					}
					now := metav1.NowMicro()
					leases[i].Spec.RenewTime = &now
					// Nobody else writes them, so one that fails is the last's version.
					if renewed, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(ctx, leases[i], metav1.UpdateOptions{}); err == nil {
						leases[i] = renewed
					}
				}
			}
		})
	}
	l.ends = append(l.ends, renewing.Wait)
	return nil
}
