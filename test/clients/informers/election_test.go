package informers

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// candidates are programs that agree by a Lease which of them leads.
type candidates struct {
	client kubernetes.Interface

	mu     sync.Mutex
	leads  string   // who says that he does
	both   []string // when two did at once
	terms  int
	leader context.CancelFunc // ends the one who leads
}

// elect has two candidates that stand again whenever they have lost, until ctx
// ends. Each asks through a connection of its own.
func elect(t *testing.T, group *errgroup.Group, ctx context.Context, config *rest.Config) *candidates {
	t.Helper()
	c := &candidates{}
	for _, name := range []string{"alice", "bob"} {
		client, err := kubernetes.NewForConfig(rest.CopyConfig(config))
		if err != nil {
			t.Fatal(err)
		}
		c.client = client
		lock := &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: namespace, Name: "throne"}, Client: client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: name},
		}
		group.Go(func() error {
			for ctx.Err() == nil {
				term, end := context.WithCancel(ctx)
				elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
					Lock: lock, LeaseDuration: 4 * time.Second, RenewDeadline: 3 * time.Second, RetryPeriod: 200 * time.Millisecond, ReleaseOnCancel: true,
					Callbacks: leaderelection.LeaderCallbacks{
						OnStartedLeading: func(context.Context) { c.begin(name, end) },
						OnStoppedLeading: func() { c.end(name) },
					},
				})
				if err != nil {
					end()
					return fmt.Errorf("candidate %s: %w", name, err)
				}
				elector.Run(term)
				end()
			}
			return nil
		})
	}
	return c
}

func (c *candidates) begin(name string, end context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leads != "" {
		c.both = append(c.both, fmt.Sprintf("%s led when %s began", c.leads, name))
	}
	c.leads, c.leader = name, end
	c.terms++
}

func (c *candidates) end(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leads == name {
		c.leads = ""
	}
}

// check: never did two lead at once, somebody leads now, the lease names him,
// and when he resigns the throne is not empty for long.
func (c *candidates) check(t *testing.T) {
	t.Helper()
	c.agree(t)
	c.mu.Lock()
	terms := c.terms
	resign := c.leader
	c.mu.Unlock()
	resign()
	for deadline := time.Now().Add(settleLimit); ; time.Sleep(20 * time.Millisecond) {
		c.mu.Lock()
		after := c.terms
		c.mu.Unlock()
		if after > terms {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody leads %v after the leader resigned", settleLimit)
		}
	}
	c.agree(t)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, both := range c.both {
		t.Error(both)
	}
	t.Logf("elections: %d terms", c.terms)
}

// agree waits until the lease names who says that he leads.
func (c *candidates) agree(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(settleLimit); ; time.Sleep(20 * time.Millisecond) {
		lease, err := c.client.CoordinationV1().Leases(namespace).Get(t.Context(), "throne", metav1.GetOptions{})
		c.mu.Lock()
		leads := c.leads
		c.mu.Unlock()
		if err == nil && leads != "" && lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity == leads {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q leads, and the lease says %+v (%v)", leads, lease.Spec, err)
		}
	}
}
