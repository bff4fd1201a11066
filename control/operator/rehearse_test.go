package operator

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// stage rehearses with any API.
type stage struct {
	placer
	api http.HandlerFunc
}

func (s *stage) Rehearse(_ context.Context, serve func(http.Handler, uint64) error) error {
	return serve(s.api, 7)
}

// oneRequest is a stream whose caller asks once.
type oneRequest struct {
	grpc.ServerStream
	ctx     context.Context
	asked   *clusterv1.RehearseRequest
	silent  bool // and stays
	answers []*clusterv1.RehearseResponse
}

func (o *oneRequest) Context() context.Context { return o.ctx }

func (o *oneRequest) Recv() (*clusterv1.RehearseRequest, error) {
	asked := o.asked
	o.asked = nil
	switch {
	case asked != nil:
		return asked, nil
	case o.silent:
		<-o.ctx.Done()
		return nil, o.ctx.Err()
	}
	return nil, io.EOF
}

func (o *oneRequest) Send(r *clusterv1.RehearseResponse) error {
	o.answers = append(o.answers, r)
	return nil
}

func rehearseOne(t *testing.T, asked *clusterv1.RehearseRequest, api http.HandlerFunc) (*clusterv1.RehearseResponse, error) {
	t.Helper()
	stream := &oneRequest{ctx: t.Context(), asked: asked}
	err := NewScheduler(&stage{api: api}, func() View { return View{} }, failures).Rehearse(stream)
	if len(stream.answers) == 2 {
		return stream.answers[1], err
	}
	return nil, err
}

// A handler that has to cut its answer short panics. There is no connection here that
// would end with it, and the control node must not.
func TestAnAnswerThatIsCutShortEndsTheRehearsal(t *testing.T) {
	get := &clusterv1.RehearseRequest{Method: http.MethodGet, Uri: "/api/v1/pods"}
	for name, tt := range map[string]struct {
		api  http.HandlerFunc
		code codes.Code
	}{
		"in pieces": {func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, answerMost/4)); err != nil {
					panic(http.ErrAbortHandler)
				}
			}
		}, codes.ResourceExhausted},
		"at once": {func(w http.ResponseWriter, _ *http.Request) {
			if n, err := w.Write(make([]byte, answerMost+1)); n != 0 || err == nil {
				t.Errorf("%d bytes were kept, %v", n, err)
			}
		}, codes.ResourceExhausted},
		"for another reason": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, codes.Internal},
		"whole":              {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, answerMost)) }, codes.OK},
	} {
		if answer, err := rehearseOne(t, get, tt.api); status.Code(err) != tt.code || (answer != nil) != (tt.code == codes.OK) {
			t.Errorf("%s: got an answer: %v, and %v, want %v", name, answer != nil, err, tt.code)
		}
	}
}

// What is served is what was checked, and ends.
func TestRehearsedRequestsAreThoseThatWereChecked(t *testing.T) {
	for uri, ok := range map[string]bool{
		"/api/v1/namespaces?dryRun=All":          true,
		"/api/v1/namespaces?x=%23&dryRun=All":    true,
		"/api/v1/namespaces?x=#&dryRun=All":      true,
		"/api/v1/namespaces?x=1#dryRun=All":      false,
		"/api/v1/namespaces":                     false,
		"/api/v1/namespaces?dryRun=":             false,
		"/api/v1/namespaces?dryRun=&dryRun=All":  false,
		"/api/v1/namespaces?dryRun=All&watch=":   false,
		"/api/v1/namespaces?dryRun=All;watch=no": false,
	} {
		answer, err := rehearseOne(t, &clusterv1.RehearseRequest{Method: http.MethodPost, Uri: uri, Headers: map[string]string{"authorization": "Bearer x"}}, func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("dryRun") != "All" || r.RequestURI != uri || r.Header.Get("Authorization") != "" {
				t.Errorf("%s came as %s, with %v", uri, r.URL, r.Header)
			}
			if _, ends := r.Context().Deadline(); !ends {
				t.Errorf("%s may last for ever", uri)
			}
		})
		if ok && (err != nil || answer == nil) || !ok && status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v, want it served: %v", uri, err, ok)
		}
	}
	for _, method := range []string{"", http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodConnect, "get", "POST\r\n"} {
		if _, err := rehearseOne(t, &clusterv1.RehearseRequest{Method: method, Uri: "/api/v1/pods?dryRun=All"}, nil); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "dry run") {
			t.Errorf("%q: got %v, want it refused", method, err)
		}
	}
}

// A caller who stays and asks nothing gives the copy back to others.
func TestARehearsalEndsWhenNothingIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, end := context.WithCancel(t.Context())
		stream := &oneRequest{ctx: ctx, asked: &clusterv1.RehearseRequest{Method: http.MethodGet, Uri: "/api"}, silent: true}
		slow := func(http.ResponseWriter, *http.Request) { time.Sleep(requestMost) }
		began := time.Now()
		err := NewScheduler(&stage{api: slow}, func() View { return View{} }, failures).Rehearse(stream)
		if took := time.Since(began); status.Code(err) != codes.DeadlineExceeded || took != requestMost+idleMost {
			t.Errorf("got %v after %v, want an end %v after the answer", err, took, idleMost)
		}
		began = time.Now()
		gone := &oneRequest{ctx: ctx, silent: true}
		time.AfterFunc(time.Second, end)
		err = NewScheduler(&stage{api: slow}, func() View { return View{} }, failures).Rehearse(gone)
		if took := time.Since(began); status.Code(err) != codes.Canceled || took != time.Second {
			t.Errorf("got %v after %v of a caller who went away", err, took)
		}
	})
}
