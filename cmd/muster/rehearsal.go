package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"

	"google.golang.org/grpc"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// rehearsal carries requests to a copy of the cluster, where dry runs are seen by those
// after them. It is an http.RoundTripper.
type rehearsal struct {
	mu       sync.Mutex // one request after the other
	stream   grpc.BidiStreamingClient[clusterv1.RehearseRequest, clusterv1.RehearseResponse]
	revision uint64 // that the copy is of
}

// rehearse asks for a copy, which lasts as long as ctx.
func rehearse(ctx context.Context, conn *grpc.ClientConn) (*rehearsal, error) {
	stream, err := clusterv1.NewSchedulerClient(conn).Rehearse(ctx)
	if err != nil {
		return nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	return &rehearsal{stream: stream, revision: first.Revision}, nil
}

// RoundTrip implements http.RoundTripper.
func (r *rehearsal) RoundTrip(request *http.Request) (*http.Response, error) {
	asked := &clusterv1.RehearseRequest{Method: request.Method, Uri: request.URL.RequestURI(), Headers: map[string]string{}}
	for name := range request.Header {
		asked.Headers[name] = request.Header.Get(name)
	}
	if request.Body != nil {
		body, err := io.ReadAll(request.Body)
		_ = request.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("read the request: %w", err)
		}
		asked.Body = body
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.stream.Send(asked); err != nil && err != io.EOF { // Recv says why it ended
		return nil, err
	}
	answer, err := r.stream.Recv()
	if err != nil {
		return nil, err
	}
	header := http.Header{}
	for name, value := range answer.Headers {
		header.Set(name, value)
	}
	return &http.Response{
		StatusCode: int(answer.Status), Status: fmt.Sprintf("%d %s", answer.Status, http.StatusText(int(answer.Status))),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header,
		ContentLength: int64(len(answer.Body)), Body: io.NopCloser(bytes.NewReader(answer.Body)), Request: request,
	}, nil
}
