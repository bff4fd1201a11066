package operator

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/control/operator/kvclient"
	"github.com/musterhq/muster/control/store/storetest"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// Each of many concurrent calls on one stream gets its own answer.
func TestPipeAnswersEachCall(t *testing.T) {
	s, _, _ := storetest.Open(t)
	c := kvclient.New(dial(t, NewKV(s, failures).Register))
	t.Cleanup(c.Close)
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			key := fmt.Appendf(nil, "key/%02d", i)
			for round := range 20 {
				value := fmt.Sprintf("%d of %d", round, i)
				made, err := c.Commit(t.Context(), &clusterv1.KVCommitRequest{Ops: []*clusterv1.KVOp{{Key: key, Value: []byte(value)}}})
				if err != nil {
					t.Error(err)
					return
				}
				got, err := c.Get(t.Context(), &clusterv1.KVGetRequest{Key: key})
				if err != nil || string(got.GetItem().GetValue()) != value || got.GetItem().GetRevision() != made.GetRevision() {
					t.Errorf("%s: got %v, %v, want %q at revision %d", key, got, err, value, made.GetRevision())
				}
			}
		})
	}
	wg.Wait()
	page, err := c.List(t.Context(), &clusterv1.KVListRequest{Prefix: []byte("key/"), Limit: 10, KeysOnly: true})
	if err != nil || len(page.GetItems()) != 10 || !page.GetMore() {
		t.Errorf("list: %v, %v, want 10 of 64 keys", page, err)
	}
}

// A call on the pipe fails like the unary one, and spoils no other.
func TestPipeFailsLikeUnaryCalls(t *testing.T) {
	s, log, _ := storetest.Open(t)
	conn := dial(t, NewKV(s, failures).Register)
	unary, c := clusterv1.NewKVClient(conn), kvclient.New(conn)
	t.Cleanup(c.Close)
	commit(t, unary, put("there", "1"))
	for _, test := range []struct {
		name    string
		request *clusterv1.KVCommitRequest
		log     error
		want    codes.Code
	}{
		{"guard", &clusterv1.KVCommitRequest{Guards: []*clusterv1.KVGuard{{Key: []byte("there")}}}, nil, codes.Aborted},
		{"empty", &clusterv1.KVCommitRequest{}, nil, codes.InvalidArgument},
		{"nobody leads", &clusterv1.KVCommitRequest{Ops: []*clusterv1.KVOp{put("a", "1")}}, errNobody, codes.Unavailable},
		{"lost", &clusterv1.KVCommitRequest{Ops: []*clusterv1.KVOp{put("a", "1")}}, errLost, codes.Unknown},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.want == codes.Unknown {
				log.Lose(test.log)
				defer log.Lose(nil)
			} else {
				log.Refuse(test.log)
				defer log.Refuse(nil)
			}
			_, want := unary.Commit(t.Context(), test.request)
			_, got := c.Commit(t.Context(), test.request)
			if status.Code(got) != test.want || got.Error() != want.Error() {
				t.Errorf("got %v, the unary call %v, want %v", got, want, test.want)
			}
		})
	}
	if _, err := c.Get(t.Context(), &clusterv1.KVGetRequest{Key: []byte("there")}); err != nil {
		t.Error(err)
	}
}

// A client that half-closes gets the answers to all that it has asked.
func TestPipeAnswersAllBeforeItEnds(t *testing.T) {
	s, _, _ := storetest.Open(t)
	stream, err := clusterv1.NewKVClient(dial(t, NewKV(s, failures).Register)).Pipe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const calls = 500
	message := &clusterv1.KVPipeRequest{}
	for i := range uint64(calls) {
		message.Calls = append(message.Calls, &clusterv1.KVCall{Id: i, Call: &clusterv1.KVCall_Commit{
			Commit: &clusterv1.KVCommitRequest{Ops: []*clusterv1.KVOp{put(fmt.Sprint(i), "v")}}}})
	}
	message.Calls = append(message.Calls, &clusterv1.KVCall{Id: calls}) // asks nothing
	if err := errors.Join(stream.Send(message), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	for {
		answers, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range answers.GetAnswers() {
			failed := codes.Code(a.GetFailure().GetCode())
			if seen[a.GetId()] || (failed == codes.Unimplemented) != (a.GetId() == calls) {
				t.Errorf("answer %v", a)
			}
			seen[a.GetId()] = true
		}
	}
	if len(seen) != calls+1 {
		t.Errorf("%d answers to %d calls", len(seen), calls+1)
	}
}
