package operator

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"

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
	for {
		asked, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		request, err := httpRequest(stream, asked)
		if err != nil {
			return err
		}
		answer := &answer{header: http.Header{}}
		api.ServeHTTP(answer, request)
		if answer.body.Len() > answerMost {
			return status.Errorf(codes.ResourceExhausted, "%s %s: more than %d bytes", asked.Method, asked.Uri, answerMost)
		}
		if err := stream.Send(answer.message()); err != nil {
			return err
		}
	}
}

// httpRequest is a request of the stream's caller. What would last, or do something
// outside of the copy, is refused.
func httpRequest(stream grpc.ServerStream, asked *clusterv1.RehearseRequest) (*http.Request, error) {
	uri, err := url.ParseRequestURI(asked.Uri)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "uri: %v", err)
	}
	query := uri.Query()
	write := asked.Method == http.MethodPost || asked.Method == http.MethodPatch
	if asked.Method != http.MethodGet && !(write && query.Get("dryRun") == metav1.DryRunAll) || query.Has("watch") || query.Has("follow") {
		return nil, status.Errorf(codes.InvalidArgument, "%s %s: want a read, or a dry run of POST or PATCH", asked.Method, asked.Uri)
	}
	request, err := http.NewRequestWithContext(stream.Context(), asked.Method, uri.String(), bytes.NewReader(asked.Body))
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "%v", err)
	}
	request.RequestURI = asked.Uri
	for name, value := range asked.Headers {
		request.Header.Set(name, value)
	}
	// The caller is who the stream's certificate says, whatever the request does.
	request.Header.Del("Authorization")
	if p, ok := peer.FromContext(stream.Context()); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			request.TLS = &info.State
		}
		request.RemoteAddr = p.Addr.String()
	}
	return request, nil
}

// answer keeps what is written.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *answer) Write(b []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	if a.body.Len() > answerMost {
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
