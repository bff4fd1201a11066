package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
	"github.com/musterhq/muster/fsm"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

var (
	errLost   = errors.New("outcome unknown")
	errNobody = errors.New("no leader")
	failures  = Failures{
		{Err: errLost, Code: codes.Unknown},
		{Err: errNobody, Code: codes.Unavailable},
		{Err: errNotLeader, Code: codes.FailedPrecondition},
	}
)

// dial serves what register adds, in memory.
func dial(t *testing.T, register func(grpc.ServiceRegistrar)) *grpc.ClientConn {
	t.Helper()
	listener, server := bufconn.Listen(1<<20), grpc.NewServer()
	register(server)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); server.Stop(); <-done })
	return conn
}

func openKV(t *testing.T) (clusterv1.KVClient, *storetest.Log) {
	t.Helper()
	s, log, _ := storetest.Open(t)
	return clusterv1.NewKVClient(dial(t, NewKV(s, failures).Register)), log
}

func put(key, value string) *clusterv1.KVOp {
	return &clusterv1.KVOp{Key: []byte(key), Value: []byte(value)}
}

func commit(t *testing.T, c clusterv1.KVClient, ops ...*clusterv1.KVOp) *clusterv1.KVCommitResponse {
	t.Helper()
	response, err := c.Commit(t.Context(), &clusterv1.KVCommitRequest{Ops: ops})
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func TestCommitIsWhatGetReads(t *testing.T) {
	c, _ := openKV(t)
	made := commit(t, c, put("a", "1"), put("b", "2"), &clusterv1.KVOp{Key: []byte("none"), Delete: true})
	if got := made.OpRevisions; made.Revision != 2 || len(got) != 3 || got[0] != 1 || got[1] != 2 || got[2] != 0 {
		t.Errorf("got %v, want revisions 1, 2, 0", made)
	}
	commit(t, c, put("a", "3"))
	for _, local := range []bool{false, true} {
		got, err := c.Get(t.Context(), &clusterv1.KVGetRequest{Key: []byte("a"), Local: local})
		if err != nil {
			t.Fatal(err)
		}
		if it := got.Item; string(it.GetValue()) != "3" || it.GetCreateRevision() != 1 || it.GetRevision() != 3 || got.Revision != 3 {
			t.Errorf("local %v: got %v", local, got)
		}
	}
	got, err := c.Get(t.Context(), &clusterv1.KVGetRequest{Key: []byte("none")})
	if err != nil || got.Item != nil || got.Revision != 3 {
		t.Errorf("a missing key: got %v, %v", got, err)
	}
}

func TestGuardsDecide(t *testing.T) {
	c, _ := openKV(t)
	commit(t, c, put("a", "1"))
	for _, test := range []struct {
		name    string
		guard   *clusterv1.KVGuard
		want    codes.Code
		message string
	}{
		{"right revision", &clusterv1.KVGuard{Key: []byte("a"), Revision: 1}, codes.OK, ""},
		{"wrong revision", &clusterv1.KVGuard{Key: []byte("a"), Revision: 7}, codes.Aborted, `"a" is at revision 1, not 7`},
		{"must not exist", &clusterv1.KVGuard{Key: []byte("a")}, codes.Aborted, `"a" exists, at revision 1`},
		{"does not exist", &clusterv1.KVGuard{Key: []byte("b")}, codes.OK, ""},
		{"must exist", &clusterv1.KVGuard{Key: []byte("b"), Exists: true}, codes.Aborted, `"b" does not exist`},
		{"exists", &clusterv1.KVGuard{Key: []byte("a"), Exists: true}, codes.OK, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := c.Commit(t.Context(), &clusterv1.KVCommitRequest{Guards: []*clusterv1.KVGuard{test.guard}, Ops: []*clusterv1.KVOp{put("other", "x")}})
			if got := status.Convert(err); got.Code() != test.want || got.Message() != test.message {
				t.Errorf("got %v, want %v %s", err, test.want, test.message)
			}
		})
	}
}

// What reaches the log is applied on every node, or stops every node.
func TestWhatCouldNotBeMeantNeverReachesTheLog(t *testing.T) {
	c, log := openKV(t)
	for name, request := range map[string]*clusterv1.KVCommitRequest{
		"nothing":             {},
		"put of no key":       {Ops: []*clusterv1.KVOp{{Value: []byte("x")}}},
		"guard of no key":     {Guards: []*clusterv1.KVGuard{{}}},
		"guard with both":     {Guards: []*clusterv1.KVGuard{{Key: []byte("a"), Exists: true, Revision: 3}}},
		"delete with a value": {Ops: []*clusterv1.KVOp{{Key: []byte("a"), Value: []byte("x"), Delete: true}}},
	} {
		if _, err := c.Commit(t.Context(), request); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v, want InvalidArgument", name, err)
		}
	}
	if got := log.Proposals(); got != 0 {
		t.Errorf("%d proposals, want none", got)
	}
}

func TestTheLogsErrorsAreTold(t *testing.T) {
	c, log := openKV(t)
	commit(t, c, put("a", "1"))
	log.Refuse(fmt.Errorf("propose: %w", errNobody))
	if _, err := c.Commit(t.Context(), &clusterv1.KVCommitRequest{Ops: []*clusterv1.KVOp{put("a", "2")}}); status.Code(err) != codes.Unavailable {
		t.Errorf("no leader: got %v, want Unavailable", err)
	}
	if _, err := c.Get(t.Context(), &clusterv1.KVGetRequest{Key: []byte("a")}); status.Code(err) != codes.Unavailable {
		t.Errorf("get without leader: got %v, want Unavailable", err)
	}
	if _, err := c.List(t.Context(), &clusterv1.KVListRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("list without leader: got %v, want Unavailable", err)
	}
	got, err := c.Get(t.Context(), &clusterv1.KVGetRequest{Key: []byte("a"), Local: true})
	if err != nil || string(got.GetItem().GetValue()) != "1" {
		t.Errorf("local get without leader: got %v, %v", got, err)
	}
	log.Refuse(nil)
	for _, lost := range []error{
		fmt.Errorf("%w: %w", errLost, context.DeadlineExceeded), // must not be taken for "not done"
		errors.New("something new"),
	} {
		log.Lose(lost)
		if _, err := c.Commit(t.Context(), &clusterv1.KVCommitRequest{Ops: []*clusterv1.KVOp{put("a", "2")}}); status.Code(err) != codes.Unknown {
			t.Errorf("%v: got %v, want Unknown", lost, err)
		}
	}
}

func TestListPages(t *testing.T) {
	c, _ := openKV(t)
	for i := range 5 {
		commit(t, c, put(fmt.Sprintf("p/%d", i), "v"))
	}
	commit(t, c, put("o", "v"), put("q", "v"))
	var keys []string
	request := &clusterv1.KVListRequest{Prefix: []byte("p/"), Limit: 2, KeysOnly: true}
	for pages := 1; ; pages++ {
		page, err := c.List(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range page.Items {
			keys = append(keys, string(item.Key))
			if item.Value != nil {
				t.Errorf("%s came with a value", item.Key)
			}
		}
		if !page.More {
			if pages != 3 {
				t.Errorf("%d pages, want 3", pages)
			}
			break
		}
		request.After = page.Items[len(page.Items)-1].Key
	}
	if got := fmt.Sprint(keys); got != "[p/0 p/1 p/2 p/3 p/4]" {
		t.Errorf("got %s", got)
	}
	if _, err := c.List(t.Context(), &clusterv1.KVListRequest{Limit: listMax + 1}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a limit above the most: got %v", err)
	}
}

// A page or a message of large values must stay below what gRPC takes.
func TestLargeValuesArePagedByBytes(t *testing.T) {
	c, _ := openKV(t)
	large := string(make([]byte, 3<<20))
	for i := range 6 {
		commit(t, c, put(fmt.Sprint("p/", i), large))
	}
	page, err := c.List(t.Context(), &clusterv1.KVListRequest{}, grpc.MaxCallRecvMsgSize(10<<20))
	if err != nil {
		t.Fatal(err)
	}
	if !page.More || len(page.Items) != 2 {
		t.Errorf("%d items, more %v; want 2 and more", len(page.Items), page.More)
	}
	stream, err := c.Watch(t.Context(), &clusterv1.KVWatchRequest{}, grpc.MaxCallRecvMsgSize(10<<20))
	if err != nil {
		t.Fatal(err)
	}
	events := receive(t, stream, 6)
	for i, e := range events {
		if e.Revision != uint64(i+1) {
			t.Errorf("event %d has revision %d", i, e.Revision)
		}
	}
}

// receive reads n events, and checks that no message says less or more than it may.
func receive(t *testing.T, stream grpc.ServerStreamingClient[clusterv1.KVWatchResponse], n int) []*clusterv1.KVEvent {
	t.Helper()
	var events []*clusterv1.KVEvent
	reached := uint64(0)
	for len(events) < n {
		message, err := stream.Recv()
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(events), n, err)
		}
		for _, e := range message.Events {
			if e.Revision <= reached {
				t.Errorf("event %d came after %d was reached", e.Revision, reached)
			}
			if e.Revision > message.Revision {
				t.Errorf("event %d in a message that reaches %d", e.Revision, message.Revision)
			}
		}
		events, reached = append(events, message.Events...), message.Revision
	}
	return events
}

func TestWatchTellsEachChangeOnce(t *testing.T) {
	c, _ := openKV(t)
	commit(t, c, put("p/a", "1"), put("o", "x"))
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := c.Watch(ctx, &clusterv1.KVWatchRequest{Prefix: []byte("p/"), After: 1})
	if err != nil {
		t.Fatal(err)
	}
	if first, err := stream.Recv(); err != nil || len(first.Events) != 0 || first.Revision != 2 {
		t.Errorf("got %v, %v; want the message that says that it has begun", first, err)
	}
	commit(t, c, put("p/a", "2"), put("o", "y"), &clusterv1.KVOp{Key: []byte("p/a"), Delete: true})
	events := receive(t, stream, 2)
	if e := events[0]; string(e.Key) != "p/a" || string(e.Value) != "2" || e.Revision != 3 || e.Delete {
		t.Errorf("got %v", e)
	}
	if e := events[1]; string(e.Key) != "p/a" || e.Revision != 5 || !e.Delete {
		t.Errorf("got %v", e)
	}
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("got %v, want Canceled", err)
	}
	// Resumed somewhere in between, nothing is missing.
	stream, err = c.Watch(t.Context(), &clusterv1.KVWatchRequest{Prefix: []byte("p/"), After: 3})
	if err != nil {
		t.Fatal(err)
	}
	if got := receive(t, stream, 1); got[0].Revision != 5 {
		t.Errorf("got %v, want the change at 5", got)
	}
}

func TestWatchSaysHowFarItIs(t *testing.T) {
	c, _ := openKV(t)
	stream, err := c.Watch(t.Context(), &clusterv1.KVWatchRequest{Prefix: []byte("p/")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	commit(t, c, put("o", "x"))
	began := time.Now()
	message, err := stream.Recv()
	if err != nil || len(message.Events) != 0 || message.Revision > 1 {
		t.Errorf("got %v, %v; want a message without events", message, err)
	}
	if took := time.Since(began); took < progressEvery/2 {
		t.Errorf("after %v, want about every %v", took, progressEvery)
	}
}

// The pages of one revision do not show what was written between them.
func TestListPagesOfOneRevision(t *testing.T) {
	machine := fsm.New(fsm.Config{HistoryEvents: 10})
	s := store.New(storetest.NewLog(machine), machine)
	c := clusterv1.NewKVClient(dial(t, NewKV(s, failures).Register))
	for i := range 5 {
		commit(t, c, put(fmt.Sprintf("k/%d", i), "old"))
	}
	var got []string
	r := &clusterv1.KVListRequest{Prefix: []byte("k/"), Limit: 2}
	for {
		page, err := c.List(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if page.Revision != 5 {
			t.Errorf("a page of revision %d, want 5", page.Revision)
		}
		for _, item := range page.Items {
			got = append(got, string(item.Key)+"="+string(item.Value))
		}
		if !page.More {
			break
		}
		r.After, r.Revision = page.Items[len(page.Items)-1].Key, page.Revision
		commit(t, c, put("k/3", "new"))
		commit(t, c, put("k/31", "new"))
		commit(t, c, &clusterv1.KVOp{Key: []byte("k/4"), Delete: true})
	}
	if want := "[k/0=old k/1=old k/2=old k/3=old k/4=old]"; fmt.Sprint(got) != want {
		t.Errorf("pages of %v, want %s", got, want)
	}
	for i := range 10 {
		commit(t, c, put("other", fmt.Sprint(i)))
	}
	r.Revision = 5
	if _, err := c.List(t.Context(), r); status.Code(err) != codes.OutOfRange {
		t.Errorf("a page of a forgotten revision: %v, want OutOfRange", err)
	}
	// A replica that is behind waits until it is there.
	ahead := s.Revision() + 1
	answered := make(chan error, 1)
	go func() {
		page, err := c.List(t.Context(), &clusterv1.KVListRequest{Revision: ahead, Local: true})
		if err == nil && page.Revision != ahead {
			err = fmt.Errorf("a page of revision %d, want %d", page.Revision, ahead)
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Errorf("a page of revision %d was answered %v at revision %d", ahead, err, ahead-1)
	case <-time.After(50 * time.Millisecond):
		commit(t, c, put("other", "last"))
		if err := <-answered; err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.List(ctx, &clusterv1.KVListRequest{Revision: ahead + 100}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a page of a revision that does not come: %v, want DeadlineExceeded", err)
	}
}

func TestForgottenPastIsOutOfRange(t *testing.T) {
	machine := fsm.New(fsm.Config{HistoryEvents: 2})
	s := store.New(storetest.NewLog(machine), machine)
	c := clusterv1.NewKVClient(dial(t, NewKV(s, failures).Register))
	for i := range 5 {
		commit(t, c, put("a", fmt.Sprint(i)))
	}
	stream, err := c.Watch(t.Context(), &clusterv1.KVWatchRequest{After: 1})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.OutOfRange || errors.Is(err, io.EOF) {
		t.Errorf("got %v, want OutOfRange", err)
	}
}
