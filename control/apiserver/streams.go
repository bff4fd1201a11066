package apiserver

import (
	"context"

	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// Streams reaches the agent of a node, at whichever control node its session
// is.
type Streams interface {
	// Open asks the agent of node for a stream and waits until the agent has
	// opened it. The request's id is chosen by the implementation. The stream
	// ends with ctx. An error that Failures.NodeUnreachable names means that
	// there is no way to the agent.
	Open(ctx context.Context, node string, request *agentv1.OpenStream) (Stream, error)
}

// Stream carries frames between a client of the API and an agent. Send and Recv
// may be called at the same time, each from one goroutine. It is an alias, so
// that an implementation need not import this package.
type Stream = interface {
	Send(*agentv1.Frame) error
	// CloseSend says that no more frames will be sent; Recv goes on.
	CloseSend() error
	// Recv returns io.EOF after the agent's last frame.
	Recv() (*agentv1.Frame, error)
}
