package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/musterhq/muster/test/bench/measure"
	"github.com/musterhq/muster/test/bench/process"
	"github.com/musterhq/muster/test/bench/system"
)

// clientsAtOnce are how many requests are under way when much is created: each
// has a connection of its own, spread over the servers.
const clientsAtOnce = 32

// lab is a cluster of either system with compute nodes, for one case.
type lab struct {
	*system.Cluster
	setting
	bench   *bench
	clients []*kubernetes.Clientset
	hollow  []*process.Process // Muster's compute nodes
	life    context.Context    // of what lives in this program
	cancel  context.CancelFunc // ends it
	ends    []func()           // and wait for it
	step    string             // that is measured
	dead    atomic.Bool        // the victims are
	joined  time.Duration      // what the nodes took to come
	probed  int                // how often there were probes
}

// most is how long a step may take.
func (l *lab) most() time.Duration { return cmp.Or(l.limit, l.bench.limit) }

// setting is what a case wants of its cluster.
type setting struct {
	nodes   int
	zones   []string
	agents  bool // pods are to become ready
	paused  bool // the scheduler is not to bind yet
	beats   bool // nodes are lost if nothing is heard of them; Muster's always are
	victims int  // so many of the first will die
	// limit of each step, if it is another than the bench's.
	limit time.Duration
}

// neverLost is longer than any case: nobody says anything for Kubernetes' nodes.
const neverLost = 24 * time.Hour

// open starts a cluster. Whoever gets a lab closes it.
func (b *bench) open(ctx context.Context, s system.System, servers int, name string, want setting) (_ *lab, err error) {
	dir, err := os.MkdirTemp(b.dir, s.Name()+"-")
	if err != nil {
		return nil, err
	}
	began := time.Now()
	cluster, _, err := system.Start(ctx, s, dir, servers)
	l := &lab{Cluster: cluster, setting: want, bench: b}
	l.life, l.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if err != nil {
		return nil, err
	}
	for i := range clientsAtOnce {
		client, err := l.connect(i)
		if err != nil {
			return nil, err
		}
		l.clients = append(l.clients, client)
	}
	if err := l.startRest(ctx); err != nil {
		return nil, err
	}
	l.step = name + "/join"
	joining := time.Now()
	if err := l.addNodes(ctx); err != nil {
		return nil, err
	}
	l.joined = time.Since(joining)
	if err := l.addPriorities(ctx); err != nil {
		return nil, err
	}
	measure.Progress("  %s: %d nodes are ready after %.0f s", s.Name(), want.nodes, time.Since(began).Seconds())
	return l, nil
}

// startRest starts what Kubernetes has in programs of their own, and holds the
// scheduler back if that is wanted.
func (l *lab) startRest(ctx context.Context) error {
	switch s := l.System.(type) {
	case system.Muster:
		if l.paused {
			return s.Operator(ctx, l.Cluster, "scheduler", "pause")
		}
	case *system.Kubernetes:
		grace := neverLost
		if l.beats {
			grace = 0
		}
		if err := s.StartControllers(l.Cluster, grace); err != nil {
			return err
		}
		if l.agents {
			if err := l.pretend(l.life); err != nil {
				return err
			}
		}
		if !l.paused {
			return s.StartScheduler(l.Cluster)
		}
	}
	return nil
}

// connect makes a client with a connection of its own that speaks protobuf.
func (l *lab) connect(number int) (*kubernetes.Clientset, error) {
	config, err := l.Administrator(l.Nodes[number%len(l.Nodes)])
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // no limit
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
	// A dialer of its own, or client-go shares one connection among all that have
	// the same certificate.
	config.Dial = (&net.Dialer{Timeout: 10 * time.Second}).DialContext
	held, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfigAndClient(config, held)
}

// close ends all that was started, and frees the disk: a long run writes
// gigabytes.
func (l *lab) close() {
	l.cancel()
	for _, wait := range l.ends {
		wait()
	}
	for _, p := range l.hollow {
		p.Kill()
	}
	l.Kill()
	for _, dir := range []string{l.Dir, l.agentsDir()} {
		if err := os.RemoveAll(dir); err != nil {
			measure.Progress("%s is left behind: %v", dir, err)
		}
	}
}

// alive answers an error if anything that was started has ended.
func (l *lab) alive() error {
	for _, p := range l.hollow {
		if err := p.Alive(); err != nil {
			return err
		}
	}
	return l.Alive()
}

// all does something so many times, by as many clients as there are. The first
// failure ends it.
func (l *lab) all(ctx context.Context, count int, do func(ctx context.Context, client *kubernetes.Clientset, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for _, client := range l.clients {
		group.Go(func() error {
			for ctx.Err() == nil {
				i := int(next.Add(1) - 1)
				if i >= count {
					return nil
				}
				if err := do(ctx, client, i); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

// addNamespace returns once pods can be created in it, which waits for the
// service account that a controller makes.
func (l *lab) addNamespace(ctx context.Context, name string, labels map[string]string) error {
	client := l.clients[0].CoreV1()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	if _, err := client.Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		return err
	}
	for {
		_, err := client.ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		if err == nil || !apierrors.IsNotFound(err) {
			return err
		}
		if err := errors.Join(l.alive(), ctx.Err()); err != nil {
			return fmt.Errorf("wait for the service account of %s: %w", name, err)
		}
		measure.Sleep(ctx, 20*time.Millisecond)
	}
}

const (
	restEach = 500 * time.Millisecond
	restMost = time.Minute
)

// rest returns once nothing is written any more, or there is no end of it.
func (l *lab) rest(ctx context.Context) error {
	until := time.Now().Add(restMost)
	for before := ""; time.Now().Before(until); measure.Sleep(ctx, restEach) {
		now, err := l.version(ctx)
		if err != nil {
			return err
		}
		if now == before {
			return nil
		}
		before = now
	}
	return ctx.Err()
}

// version is that of the store: it grows with every write, of anything.
func (l *lab) version(ctx context.Context) (string, error) {
	list, err := l.clients[0].CoreV1().Pods("").List(ctx, metav1.ListOptions{Limit: 1})
	if err != nil {
		return "", err
	}
	return list.ResourceVersion, nil
}

// highPriority is that of pods that preempt others, which have 0.
const highPriority = "high"

func (l *lab) addPriorities(ctx context.Context) error {
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: highPriority}, Value: 10}
	_, err := l.clients[0].SchedulingV1().PriorityClasses().Create(ctx, class, metav1.CreateOptions{})
	return err
}
