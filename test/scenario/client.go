package scenario

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// attemptTimeout bounds one request to one control host. It is longer than the
// cluster may take to find a new leader, so that a request held meanwhile is
// not given up.
const attemptTimeout = 5 * time.Second

// client reaches the API through whichever control host answers.
type client struct {
	names []string
	hosts map[string]kubernetes.Interface

	mu   sync.Mutex
	next int // the host to try first: the one that answered last
}

func newClient(t *testing.T, c Cluster) *client {
	t.Helper()
	return newClientOf(t, c, c.Control())
}

// newClientOf asks some of the control hosts only.
func newClientOf(t *testing.T, c Cluster, names []string) *client {
	t.Helper()
	hosts := &client{names: names, hosts: map[string]kubernetes.Interface{}}
	for _, name := range hosts.names {
		config := rest.CopyConfig(c.Config(name))
		config.Timeout = attemptTimeout
		config.QPS, config.Burst = -1, 0 // the scenario decides how fast
		set, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		hosts.hosts[name] = set
	}
	hosts.next = rand.IntN(len(hosts.names))
	return hosts
}

// at is the API of one control host.
func (c *client) at(host string) kubernetes.Interface { return c.hosts[host] }

// do calls f with one control host after the other until it succeeds, its
// error is the cluster's answer to the request and not the lack of one, or ctx
// ends. f may be called again although an earlier call had its effect.
func (c *client) do(ctx context.Context, f func(ctx context.Context, api kubernetes.Interface) error) error {
	for {
		c.mu.Lock()
		turn := c.next
		c.mu.Unlock()
		err := f(ctx, c.hosts[c.names[turn%len(c.names)]])
		if err == nil || answered(err) {
			return err
		}
		c.mu.Lock()
		if c.next == turn {
			c.next++
		}
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("no control host did it: %w", err), ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// answered tells an answer from a refusal or a silence that another control
// host, or the same one later, may not repeat.
func answered(err error) bool {
	if apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) ||
		apierrors.IsTooManyRequests(err) || apierrors.IsInternalError(err) {
		return false
	}
	return apierrors.ReasonForError(err) != ""
}
