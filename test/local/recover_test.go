package local

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/control"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// Two of three control nodes are gone. The last one becomes a cluster of its
// own with what it has acknowledged, once its name was given.
func TestLastControlNodeIsRecovered(t *testing.T) {
	c := start(t)
	survivor := c.followers()[0]
	if _, err := write(t.Context(), clusterv1.NewKVClient(c.operator(survivor)), "test/a", "kept"); err != nil {
		t.Fatal(err)
	}
	dir := c.Dir(survivor)
	if _, err := control.Recover(dir, "", nil); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("of a node that runs: %v", err)
	}
	for _, name := range c.Control() {
		if err := c.Stop(name); err != nil {
			t.Fatal(err)
		}
	}
	r, err := control.Recover(dir, "", nil)
	if err != nil || r.Done || r.Name != survivor || len(r.Dropped) != 2 || r.Revision == 0 || len(r.Kinds) == 0 {
		t.Fatalf("a look: %+v, %v", r, err)
	}
	if _, err := control.Recover(dir, "another", nil); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("with another's name: %v", err)
	}
	if r, err = control.Recover(dir, survivor, nil); err != nil || !r.Done {
		t.Fatalf("with its name: %+v, %v", r, err)
	}
	if err := c.Start(t.Context(), survivor); err != nil {
		t.Fatal(err)
	}
	kv := clusterv1.NewKVClient(c.operator(survivor))
	c.eventually("it leads alone", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		got, err := kv.Get(ctx, &clusterv1.KVGetRequest{Key: []byte("test/a")})
		return err == nil && string(got.GetItem().GetValue()) == "kept"
	})
	peers, err := clusterv1.NewRaftClient(c.operator(survivor)).ListPeers(t.Context(), &clusterv1.ListPeersRequest{})
	if err != nil || len(peers.Peers) != 1 || peers.Leader != survivor {
		t.Errorf("members %v, %v, want %s alone", peers, err, survivor)
	}
	if _, err := write(t.Context(), kv, "test/b", "new"); err != nil {
		t.Errorf("a write: %v", err)
	}
}
