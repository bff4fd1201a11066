package operator

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

const (
	// pipeCallsMax bounds the calls under way on one pipe. At the bound nothing
	// more is read from it, so that the client has to wait.
	pipeCallsMax = 4096
	// answersMax and messageBytesMax bound one message of answers.
	answersMax = 1000
)

// Pipe carries many calls on one stream. A call means what the unary one does,
// and those of one message run beside each other; its reads share a barrier.
func (k *KV) Pipe(stream grpc.BidiStreamingServer[clusterv1.KVPipeRequest, clusterv1.KVPipeResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	p := &pipe{kv: k, room: semaphore.NewWeighted(pipeCallsMax), wake: make(chan struct{}, 1)}
	received := make(chan error, 1)
	go func() { // ends when this function has returned: that ends the stream
		err := p.receive(ctx, stream)
		p.calls.Wait()
		received <- err
	}()
	for {
		select {
		case err := <-received:
			if errors.Is(err, io.EOF) { // the client has said all, and gets the rest
				err = p.send(stream)
			}
			return err
		case <-p.wake:
			// Whoever is about to add something may do so first: one message then
			// carries more, and nobody waits if there is nobody.
			runtime.Gosched()
			if err := p.send(stream); err != nil {
				return err
			}
		}
	}
}

type pipe struct {
	kv    *KV
	room  *semaphore.Weighted
	calls sync.WaitGroup

	mu      sync.Mutex
	answers []*clusterv1.KVAnswer
	wake    chan struct{} // room for one
}

func (p *pipe) receive(ctx context.Context, stream grpc.BidiStreamingServer[clusterv1.KVPipeRequest, clusterv1.KVPipeResponse]) error {
	for {
		message, err := stream.Recv()
		if err != nil {
			return err
		}
		n := int64(len(message.Calls))
		if n > pipeCallsMax {
			return status.Errorf(codes.InvalidArgument, "%d calls in one message: at most %d", n, pipeCallsMax)
		}
		if err := p.room.Acquire(ctx, n); err != nil {
			return status.FromContextError(err).Err()
		}
		p.start(ctx, message.Calls)
	}
}

// start runs the calls of a message: each write by itself, the reads together.
func (p *pipe) start(ctx context.Context, calls []*clusterv1.KVCall) {
	var reads []*clusterv1.KVCall
	for _, call := range calls {
		switch c := call.Call.(type) {
		case *clusterv1.KVCall_Commit:
			p.calls.Go(func() {
				response, err := p.kv.Commit(ctx, c.Commit)
				if err != nil {
					p.answer(failure(call.Id, err))
					return
				}
				p.answer(&clusterv1.KVAnswer{Id: call.Id, Answer: &clusterv1.KVAnswer_Commit{Commit: response}})
			})
		case *clusterv1.KVCall_Get:
			reads = append(reads, call)
		case *clusterv1.KVCall_List:
			if c.List.GetRevision() > 0 { // may wait for that revision
				p.calls.Go(func() { p.read(ctx, []*clusterv1.KVCall{call}) })
				continue
			}
			reads = append(reads, call)
		default:
			p.answer(failure(call.Id, status.Errorf(codes.Unimplemented, "call %d is neither get, list nor commit", call.Id)))
		}
	}
	if len(reads) > 0 {
		p.calls.Go(func() { p.read(ctx, reads) })
	}
}

func (p *pipe) read(ctx context.Context, calls []*clusterv1.KVCall) {
	answers := make([]*clusterv1.KVAnswer, 0, len(calls))
	// One barrier will do: it is asked for after all of these calls came.
	barrier := sync.OnceValue(func() error { return p.kv.current(ctx, false) })
	current := func(local bool) error {
		if local {
			return nil
		}
		return barrier()
	}
	for _, call := range calls {
		a, err := &clusterv1.KVAnswer{Id: call.Id}, error(nil)
		switch c := call.Call.(type) {
		case *clusterv1.KVCall_Get:
			get := &clusterv1.KVAnswer_Get{}
			get.Get, err = p.kv.get(c.Get, current)
			a.Answer = get
		case *clusterv1.KVCall_List:
			list := &clusterv1.KVAnswer_List{}
			list.List, err = p.kv.list(ctx, c.List, current)
			a.Answer = list
		}
		if err != nil {
			a = failure(call.Id, err)
		}
		answers = append(answers, a)
	}
	p.answer(answers...)
}

func failure(id uint64, err error) *clusterv1.KVAnswer {
	s := status.Convert(err)
	return &clusterv1.KVAnswer{Id: id, Answer: &clusterv1.KVAnswer_Failure{
		Failure: &clusterv1.KVFailure{Code: uint32(s.Code()), Message: s.Message()},
	}}
}

func (p *pipe) answer(answers ...*clusterv1.KVAnswer) {
	p.mu.Lock()
	p.answers = append(p.answers, answers...)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// send sends what is ready, in as few messages as bounds allow.
func (p *pipe) send(stream grpc.BidiStreamingServer[clusterv1.KVPipeRequest, clusterv1.KVPipeResponse]) error {
	p.mu.Lock()
	answers := p.answers
	p.answers = nil
	p.mu.Unlock()
	defer p.room.Release(int64(len(answers)))
	for len(answers) > 0 {
		n, bytes := 0, 0
		for n < len(answers) && n < answersMax && bytes < messageBytesMax {
			bytes += sizeOf(answers[n])
			n++
		}
		if err := stream.Send(&clusterv1.KVPipeResponse{Answers: answers[:n]}); err != nil {
			return err
		}
		answers = answers[n:]
	}
	return nil
}

// sizeOf is about what an answer takes in a message.
func sizeOf(a *clusterv1.KVAnswer) int {
	switch a := a.Answer.(type) {
	case *clusterv1.KVAnswer_Get:
		return len(a.Get.GetItem().GetKey()) + len(a.Get.GetItem().GetValue())
	case *clusterv1.KVAnswer_List:
		size := 0
		for _, item := range a.List.GetItems() {
			size += len(item.Key) + len(item.Value)
		}
		return size
	default:
		return 0
	}
}
