package control

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/grpc"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/consensus/transport"
)

// connections keeps one gRPC connection to each other control node.
type connections struct {
	id *identity.Identity

	mu        sync.Mutex
	byAddress map[string]*grpc.ClientConn
	closed    bool
}

var errClosed = errors.New("this control node is stopping")

func newConnections(id *identity.Identity) *connections {
	return &connections{id: id, byAddress: map[string]*grpc.ClientConn{}}
}

// Dial gives the connection to a control node. The other side must prove to be
// a control node of this cluster; its name is for messages only.
func (c *connections) Dial(_ context.Context, _ string, address string) (grpc.ClientConnInterface, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	if conn := c.byAddress[address]; conn != nil {
		return conn, nil
	}
	conn, err := transport.DialGRPC(address, c.id)
	if err != nil {
		return nil, err
	}
	c.byAddress[address] = conn
	return conn, nil
}

func (c *connections) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var errs []error
	for _, conn := range c.byAddress {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}
