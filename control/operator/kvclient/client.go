// Package kvclient speaks to one control node's KV service for a program with
// many concurrent calls: they share one stream, and those that are made while a
// message is being sent travel together in the next. A call then costs a
// fraction of a gRPC call of its own.
//
// Errors are gRPC statuses as of the unary calls. A stream that breaks ends
// what was on it: reads answer UNAVAILABLE, and writes UNKNOWN, because they
// may have been done.
package kvclient

import (
	"context"
	"runtime"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

const (
	// One message carries at most so many calls and about so many bytes, or a
	// single call that is larger.
	callsMax = 1000
	bytesMax = 1 << 20
)

// Client is safe for use by any number of goroutines.
type Client struct {
	kv     clusterv1.KVClient
	ctx    context.Context
	cancel context.CancelFunc

	mu   sync.Mutex
	pipe *pipe // nil: opened by the next call
}

// New returns a client of the node behind conn. Close ends it, and ends
// whatever is under way.
func New(conn grpc.ClientConnInterface) *Client {
	ctx, cancel := context.WithCancel(context.Background())
	return &Client{kv: clusterv1.NewKVClient(conn), ctx: ctx, cancel: cancel}
}

// Close ends the stream.
func (c *Client) Close() { c.cancel() }

// Get reads one key.
func (c *Client) Get(ctx context.Context, r *clusterv1.KVGetRequest) (*clusterv1.KVGetResponse, error) {
	a, err := c.call(ctx, &clusterv1.KVCall{Call: &clusterv1.KVCall_Get{Get: r}}, len(r.Key), false)
	return a.GetGet(), err
}

// List reads a page of keys.
func (c *Client) List(ctx context.Context, r *clusterv1.KVListRequest) (*clusterv1.KVListResponse, error) {
	a, err := c.call(ctx, &clusterv1.KVCall{Call: &clusterv1.KVCall_List{List: r}}, len(r.Prefix)+len(r.After), false)
	return a.GetList(), err
}

// Commit is one guarded transaction. The request must not change any more, not
// even after an error: it may still be on its way.
func (c *Client) Commit(ctx context.Context, r *clusterv1.KVCommitRequest) (*clusterv1.KVCommitResponse, error) {
	size := 0
	for _, op := range r.Ops {
		size += len(op.Key) + len(op.Value)
	}
	a, err := c.call(ctx, &clusterv1.KVCall{Call: &clusterv1.KVCall_Commit{Commit: r}}, size, true)
	return a.GetCommit(), err
}

// result is the end of a call.
type result struct {
	answer *clusterv1.KVAnswer
	err    error
}

func (c *Client) call(ctx context.Context, call *clusterv1.KVCall, size int, writes bool) (*clusterv1.KVAnswer, error) {
	w := &waiting{call: call, size: size, writes: writes, done: make(chan result, 1)}
	p, err := c.submit(w)
	if err != nil {
		return nil, err
	}
	select {
	case r := <-w.done:
		if failure := r.answer.GetFailure(); failure != nil {
			return nil, status.Error(codes.Code(failure.Code), failure.Message)
		}
		return r.answer, r.err
	case <-ctx.Done():
		p.forget(w)
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// submit queues a call on the stream, opening one if there is none.
func (c *Client) submit(w *waiting) (*pipe, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pipe != nil && c.pipe.submit(w) {
		return c.pipe, nil
	}
	ctx, cancel := context.WithCancel(c.ctx)
	stream, err := c.kv.Pipe(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	c.pipe = &pipe{stream: stream, cancel: cancel, waiting: map[uint64]*waiting{}, wake: make(chan struct{}, 1)}
	c.pipe.submit(w)
	go c.pipe.send()
	go c.pipe.receive()
	return c.pipe, nil
}

type waiting struct {
	call   *clusterv1.KVCall
	size   int
	writes bool
	sent   bool
	done   chan result // room for one
}

// pipe is one stream, for as long as it holds.
type pipe struct {
	stream grpc.BidiStreamingClient[clusterv1.KVPipeRequest, clusterv1.KVPipeResponse]
	cancel context.CancelFunc
	wake   chan struct{} // room for one

	mu      sync.Mutex
	over    bool
	number  uint64
	queue   []*waiting
	waiting map[uint64]*waiting
}

// submit answers false when the stream is over.
func (p *pipe) submit(w *waiting) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return false
	}
	p.number++
	w.call.Id = p.number
	p.waiting[p.number] = w
	p.queue = append(p.queue, w)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return true
}

// forget drops a call nobody waits for any more. If it was sent already it may
// still be done.
func (p *pipe) forget(w *waiting) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, w.call.Id)
}

func (p *pipe) send() {
	for {
		select {
		case <-p.wake:
		case <-p.stream.Context().Done():
			return // receive knows why
		}
		// Whoever is about to call may do so first: one message then carries more
		// calls, and nobody waits if there is nobody.
		runtime.Gosched()
		for message := p.take(); message != nil; message = p.take() {
			if p.stream.Send(message) != nil {
				return // receive knows why
			}
		}
	}
}

// take makes a message of what is queued; nil when nothing is.
func (p *pipe) take() *clusterv1.KVPipeRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	message, n, bytes := &clusterv1.KVPipeRequest{}, 0, 0
	for _, w := range p.queue {
		if len(message.Calls) == callsMax || len(message.Calls) > 0 && bytes+w.size > bytesMax {
			break
		}
		n++
		if p.waiting[w.call.Id] != w {
			continue // given up before it was sent
		}
		bytes += w.size
		w.sent = true
		message.Calls = append(message.Calls, w.call)
	}
	if p.queue = p.queue[n:]; len(p.queue) == 0 {
		p.queue = nil
	}
	if len(message.Calls) == 0 {
		return nil
	}
	return message
}

func (p *pipe) receive() {
	defer p.cancel()
	for {
		message, err := p.stream.Recv()
		if err != nil {
			p.end(err)
			return
		}
		p.mu.Lock()
		for _, a := range message.Answers {
			if w := p.waiting[a.Id]; w != nil {
				delete(p.waiting, a.Id)
				w.done <- result{answer: a}
			}
		}
		p.mu.Unlock()
	}
}

// end tells everybody what the end of the stream means for them.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	lost := status.Convert(err)
	for _, w := range p.waiting {
		code := codes.Unavailable
		switch {
		case lost.Code() == codes.Unauthenticated, lost.Code() == codes.PermissionDenied, lost.Code() == codes.Unimplemented:
			code = lost.Code() // refused before anything was looked at
		case w.writes && w.sent:
			code = codes.Unknown
		}
		w.done <- result{err: status.Errorf(code, "the connection was lost: %s", lost.Message())}
	}
	p.waiting, p.queue = nil, nil
}
