package operator

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/control/store/storetest"
	"github.com/musterhq/muster/fsm"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

func TestSavedStateIsWhole(t *testing.T) {
	s, log, _ := storetest.Open(t)
	service := NewSnapshot(SnapshotConfig{
		Store: s, Failures: failures, Logger: slog.New(slog.DiscardHandler),
		Cluster: func() (*clusterv1.ClusterIdentity, error) { return &clusterv1.ClusterIdentity{ClusterId: "x"}, nil },
	})
	kv := clusterv1.NewKVClient(dial(t, NewKV(s, failures).Register))
	for i := range 3 { // one value takes several messages
		commit(t, kv, put(fmt.Sprint("p/", i), string(bytes.Repeat([]byte{byte(i)}, 3<<20))))
	}
	c := clusterv1.NewSnapshotClient(dial(t, service.Register))
	save := func(request *clusterv1.SaveSnapshotRequest) (*clusterv1.ClusterIdentity, []byte, error) {
		stream, err := c.Save(t.Context(), request)
		if err != nil {
			return nil, nil, err
		}
		first, err := stream.Recv()
		if err != nil {
			return nil, nil, err
		}
		var state []byte
		for {
			message, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return first.Cluster, state, nil
			}
			if err != nil {
				return nil, nil, err
			}
			state = append(state, message.State...)
		}
	}
	cluster, state, err := save(&clusterv1.SaveSnapshotRequest{})
	if err != nil || cluster.GetClusterId() != "x" {
		t.Fatalf("got %v, %v", cluster, err)
	}
	restored := fsm.New(fsm.Config{})
	if err := restored.Restore(bytes.NewReader(state)); err != nil {
		t.Fatal(err)
	}
	if item, revision := restored.Get("p/2"); item == nil || len(item.Value) != 3<<20 || revision != 3 {
		t.Errorf("p/2 is %v at %d", item != nil, revision)
	}
	log.Refuse(errNobody)
	if _, _, err := save(&clusterv1.SaveSnapshotRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("without a leader: got %v, want Unavailable", err)
	}
	if _, _, err := save(&clusterv1.SaveSnapshotRequest{Local: true}); err != nil {
		t.Errorf("local without a leader: %v", err)
	}
}
