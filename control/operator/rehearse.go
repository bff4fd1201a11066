package operator

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

const (
	// rehearsalsMost bounds the copies of the cluster, each of which keeps what has
	// changed since alive.
	rehearsalsMost = 4
	// answerMost bounds what one request may answer.
	answerMost = 8 << 20
	// requestMost is for how long one request may last. The API ends what is not meant to
	// last sooner.
	requestMost = 90 * time.Second
	// idleMost is for how long a copy is kept for a caller who asks nothing.
	idleMost = 2 * time.Minute
)

// Rehearse serves the API of a copy of the cluster to one caller.
func (s *Scheduler) Rehearse(stream grpc.BidiStreamingServer[clusterv1.RehearseRequest, clusterv1.RehearseResponse]) error {
	select {
	case s.rehearsals <- struct{}{}:
		defer func() { <-s.rehearsals }()
	default:
		return status.Errorf(codes.ResourceExhausted, "%d rehearsals are under way: try again", rehearsalsMost)
	}
	var served error
	err := s.scheduling.Rehearse(stream.Context(), func(api http.Handler, revision uint64) error {
		served = serveStream(stream, api, revision)
		return served
	})
	if err == nil || served != nil {
		return served
	}
	return s.failed(err)
}

func serveStream(stream grpc.BidiStreamingServer[clusterv1.RehearseRequest, clusterv1.RehearseResponse], api http.Handler, revision uint64) error {
	if err := stream.Send(&clusterv1.RehearseResponse{Revision: revision}); err != nil {
		return err
	}
	requests := make(chan received)
	go receiveAll(stream, requests)
	idle := time.NewTimer(idleMost)
	defer idle.Stop()
	for {
		idle.Reset(idleMost)
		var next received
		select {
		case next = <-requests:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-idle.C:
			return status.Errorf(codes.DeadlineExceeded, "nothing was asked for %v", idleMost)
		}
		if errors.Is(next.err, io.EOF) {
			return nil
		}
		if next.err != nil {
			return next.err
		}
		answer, err := answerTo(stream, api, next.asked)
		if err != nil {
			return err
		}
		if err := stream.Send(answer.message()); err != nil {
			return err
		}
	}
}

// received is a request, or why none comes.
type received struct {
	asked *clusterv1.RehearseRequest
	err   error
}

// receiveAll ends with the stream, which ends once its handler has returned: nobody can wait
// for it before.
func receiveAll(stream grpc.BidiStreamingServer[clusterv1.RehearseRequest, clusterv1.RehearseResponse], to chan<- received) {
	for {
		asked, err := stream.Recv()
		select {
		case to <- received{asked, err}:
		case <-stream.Context().Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// answerTo is what the API answers. A handler that panics, as one does that has to cut its
// answer short, ends the rehearsal as it would end a connection.
func answerTo(stream grpc.ServerStream, api http.Handler, asked *clusterv1.RehearseRequest) (a *answer, err error) {
	ctx, cancel := context.WithTimeout(stream.Context(), requestMost)
	defer cancel()
	request, err := httpRequest(ctx, asked)
	if err != nil {
		return nil, err
	}
	a = &answer{header: http.Header{}}
	defer func() {
		problem := recover()
		switch {
		case a.tooLarge:
			err = status.Errorf(codes.ResourceExhausted, "%s %s: more than %d bytes", asked.Method, asked.Uri, answerMost)
		case problem != nil:
			err = status.Errorf(codes.Internal, "%s %s: no whole answer: %v", asked.Method, asked.Uri, problem)
		}
	}()
	api.ServeHTTP(a, request)
	return a, nil
}

// httpRequest is a request of the stream's caller. What would last, or do something
// outside of the copy, is refused.
func httpRequest(ctx context.Context, asked *clusterv1.RehearseRequest) (*http.Request, error) {
	uri, err := url.ParseRequestURI(asked.Uri)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "uri: %v", err)
	}
	query := uri.Query()
	write := asked.Method == http.MethodPost || asked.Method == http.MethodPatch
	if asked.Method != http.MethodGet && !(write && query.Get("dryRun") == metav1.DryRunAll) || query.Has("watch") || query.Has("follow") {
		return nil, status.Errorf(codes.InvalidArgument, "%s %s: want a read, or a dry run of POST or PATCH", asked.Method, asked.Uri)
	}
	request, err := http.NewRequestWithContext(ctx, asked.Method, "/", bytes.NewReader(asked.Body))
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%v", err)
	}
	// What was checked, and not parsed again: "#" begins a fragment in a URL, in a request it does not.
	request.URL, request.RequestURI = uri, asked.Uri
	for name, value := range asked.Headers {
		request.Header.Set(name, value)
	}
	// The caller is who the stream's certificate says, whatever the request does.
	request.Header.Del("Authorization")
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			request.TLS = &info.State
		}
		request.RemoteAddr = p.Addr.String()
	}
	return request, nil
}

// answer keeps what is written, up to answerMost.
type answer struct {
	header   http.Header
	status   int
	body     bytes.Buffer
	tooLarge bool
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if len(b) > answerMost-a.body.Len() {
		a.tooLarge = true
		return 0, io.ErrShortBuffer
	}
	return a.body.Write(b)
}

func (a *answer) message() *clusterv1.RehearseResponse {
	a.WriteHeader(http.StatusOK)
	m := &clusterv1.RehearseResponse{Status: uint32(a.status), Headers: map[string]string{}, Body: a.body.Bytes()}
	for name := range a.header {
		m.Headers[name] = a.header.Get(name)
	}
	return m
}
