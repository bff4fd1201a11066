package cluster

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
)

// dialTimeout is how long the balancer waits for a control node on the same
// machine; one that is dead refuses at once.
const dialTimeout = time.Second

// Balanced is the administrator's configuration for an address that leads to
// whichever control node takes the connection, one after the other: what
// stands before the control nodes of a cluster that its clients rely on.
func (c *Cluster) Balanced() *rest.Config {
	c.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	b := &balancer{listener: l}
	for _, n := range c.servers {
		b.targets = append(b.targets, n.Address)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	c.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Error(err)
		}
	})
	config := c.Config(c.servers[0])
	config.Host = "https://" + l.Addr().String()
	return config
}

// balancer passes bytes on, so that TLS is between the client and the node.
type balancer struct {
	listener net.Listener
	targets  []string

	mu   sync.Mutex
	next int
}

// Run passes on connections until ctx ends.
func (b *balancer) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		<-ctx.Done()
		return b.listener.Close()
	})
	group.Go(func() error {
		for {
			conn, err := b.listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			if err != nil {
				return err
			}
			group.Go(func() error {
				b.pass(ctx, conn)
				return nil
			})
		}
	})
	return group.Wait()
}

// pass ends both connections as soon as one of them, or ctx, has ended.
func (b *balancer) pass(ctx context.Context, client net.Conn) {
	defer client.Close()
	server := b.dial(ctx)
	if server == nil {
		return
	}
	defer server.Close()
	defer context.AfterFunc(ctx, func() {
		client.Close()
		server.Close()
	})()
	var both sync.WaitGroup
	for _, way := range []struct{ to, from net.Conn }{{client, server}, {server, client}} {
		both.Go(func() {
			_, _ = io.Copy(way.to, way.from)
			way.to.Close()
			way.from.Close()
		})
	}
	both.Wait()
}

// dial takes the control nodes by turns and is nil when none of them answers.
func (b *balancer) dial(ctx context.Context) net.Conn {
	dialer := net.Dialer{Timeout: dialTimeout}
	for range b.targets {
		b.mu.Lock()
		target := b.targets[b.next%len(b.targets)]
		b.next++
		b.mu.Unlock()
		if conn, err := dialer.DialContext(ctx, "tcp", target); err == nil {
			return conn
		}
	}
	return nil
}
