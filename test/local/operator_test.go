package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"

	"github.com/musterhq/muster/consensus/transport"
	"github.com/musterhq/muster/control/backup"
	"github.com/musterhq/muster/control/pki"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// operator is an administrator's connection to a control node.
func (c *cluster) operator(control string) *grpc.ClientConn {
	c.t.Helper()
	config, err := rest.TLSConfigFor(c.Config(control))
	if err != nil {
		c.t.Fatal(err)
	}
	conn, err := transport.DialGRPCWith(c.Address(control), config)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

func (c *cluster) leader() string {
	c.t.Helper()
	leader, err := c.Leader(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return leader
}

func (c *cluster) followers() []string {
	c.t.Helper()
	var followers []string
	for leader, names := c.leader(), c.Control(); len(names) > 0; names = names[1:] {
		if names[0] != leader {
			followers = append(followers, names[0])
		}
	}
	return followers
}

func write(ctx context.Context, kv clusterv1.KVClient, key, value string) (uint64, error) {
	response, err := kv.Commit(ctx, &clusterv1.KVCommitRequest{Ops: []*clusterv1.KVOp{{Key: []byte(key), Value: []byte(value)}}})
	return response.GetRevision(), err
}

// What is written through one follower is read and watched through another.
func TestAnyControlNodeServesTheStore(t *testing.T) {
	c := start(t)
	followers := c.followers()
	one, other := clusterv1.NewKVClient(c.operator(followers[0])), clusterv1.NewKVClient(c.operator(followers[1]))
	first, err := write(t.Context(), one, "test/a", "1")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := other.Watch(t.Context(), &clusterv1.KVWatchRequest{Prefix: []byte("test/"), After: first - 1})
	if err != nil {
		t.Fatal(err)
	}
	for i := 2; i <= 20; i++ {
		value := fmt.Sprint(i)
		if _, err := write(t.Context(), one, "test/a", value); err != nil {
			t.Fatal(err)
		}
		// Linearizable: not a moment later, and on every node.
		for _, name := range c.Control() {
			got, err := clusterv1.NewKVClient(c.operator(name)).Get(t.Context(), &clusterv1.KVGetRequest{Key: []byte("test/a")})
			if err != nil || string(got.GetItem().GetValue()) != value {
				t.Fatalf("%s answers %q, %v after %s was written", name, got.GetItem().GetValue(), err, value)
			}
		}
	}
	for want := 1; want <= 20; {
		message, err := stream.Recv()
		if err != nil {
			t.Fatalf("before change %d: %v", want, err)
		}
		for _, e := range message.Events {
			if string(e.Value) != fmt.Sprint(want) {
				t.Fatalf("change %d has value %q", want, e.Value)
			}
			want++
		}
	}
	_, err = other.Commit(t.Context(), &clusterv1.KVCommitRequest{
		Guards: []*clusterv1.KVGuard{{Key: []byte("test/a"), Revision: first}},
		Ops:    []*clusterv1.KVOp{{Key: []byte("test/a"), Delete: true}},
	})
	if status.Code(err) != codes.Aborted {
		t.Errorf("a guard that does not hold: got %v, want Aborted", err)
	}
}

func TestPeersWithAndWithoutALeader(t *testing.T) {
	c := start(t)
	leader, followers := c.leader(), c.followers()
	survivor := clusterv1.NewRaftClient(c.operator(followers[0]))
	got, err := survivor.ListPeers(t.Context(), &clusterv1.ListPeersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Leader != leader || got.LeaderAddress != c.Address(leader) || !got.Quorum || len(got.Peers) != 3 || got.AnsweredBy != followers[0] {
		t.Errorf("with a leader: got %v", got)
	}
	_, err = survivor.RemovePeer(t.Context(), &clusterv1.RemovePeerRequest{Name: leader})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(status.Convert(err).Message(), c.Address(leader)) {
		t.Errorf("a follower asked to remove: got %v, want where the leader is", err)
	}
	for _, name := range []string{leader, followers[1]} {
		if err := c.Stop(name); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		got, err = survivor.ListPeers(t.Context(), &clusterv1.ListPeersRequest{})
		if err == nil && !got.Quorum && got.Leader == "" && strings.Contains(got.Warning, "no quorum") && len(got.Peers) == 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("without a leader: got %v, %v", got, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	kv := clusterv1.NewKVClient(c.operator(followers[0]))
	if _, err := write(t.Context(), kv, "test/a", "x"); status.Code(err) != codes.Unavailable {
		t.Errorf("a write without a leader: got %v, want Unavailable", err)
	}
	if _, err := kv.Get(t.Context(), &clusterv1.KVGetRequest{Key: []byte("test/a"), Local: true}); err != nil {
		t.Errorf("a local read without a leader: %v", err)
	}
	for _, name := range []string{leader, followers[1]} {
		if err := c.Cluster.Start(name); err != nil {
			t.Fatal(err)
		}
	}
}

// A transfer is planned, so nobody who writes may notice more than a pause.
// Writers go on through every node, the old leader and the new one included.
func TestTransferIsNoErrorToWriters(t *testing.T) {
	c := start(t)
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var written atomic.Int64
	for _, name := range c.Control() {
		kv := clusterv1.NewKVClient(c.operator(name))
		for w := range 2 {
			writers.Go(func() {
				key, last := fmt.Sprintf("test/%s-%d", name, w), uint64(0)
				for i := 0; ctx.Err() == nil; i++ {
					// Guarded by the write before: one that took place twice would show.
					response, err := kv.Commit(context.WithoutCancel(ctx), &clusterv1.KVCommitRequest{
						Guards: []*clusterv1.KVGuard{{Key: []byte(key), Revision: last}},
						Ops:    []*clusterv1.KVOp{{Key: []byte(key), Value: fmt.Append(nil, i)}},
					})
					if err != nil {
						t.Errorf("write %d through %s: %v", i, name, err)
						return
					}
					last = response.OpRevisions[0]
					written.Add(1)
					time.Sleep(2 * time.Millisecond)
				}
			})
		}
	}
	for done, tries := 0, 0; done < 3; tries++ {
		time.Sleep(300 * time.Millisecond)
		old, began := c.leader(), time.Now()
		got, err := clusterv1.NewRaftClient(c.operator(old)).TransferLeadership(t.Context(), &clusterv1.TransferLeadershipRequest{})
		if err != nil {
			// On a machine that is busy with something else it may take too
			// long, and then changes nothing.
			if tries == 10 {
				t.Fatalf("transfer from %s: %v", old, err)
			}
			t.Logf("transfer from %s: %v", old, err)
			continue
		}
		done++
		if got.Leader == old || got.Leader == "" {
			t.Errorf("%s led, and now %q does", old, got.Leader)
		}
		t.Logf("from %s to %s in %v, after %d writes", old, got.Leader, time.Since(began).Round(time.Millisecond), written.Load())
		before := written.Load()
		for deadline := time.Now().Add(10 * time.Second); written.Load() == before; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("nothing is written since leadership went to %s", got.Leader)
			}
		}
	}
	stop()
	writers.Wait()
}

// The file that an operator saves holds what was written, and the keys that
// sign for the cluster.
func TestSavedSnapshotHoldsTheCluster(t *testing.T) {
	c := start(t)
	if _, err := write(t.Context(), clusterv1.NewKVClient(c.operator(c.leader())), "test/a", "saved"); err != nil {
		t.Fatal(err)
	}
	stream, err := clusterv1.NewSnapshotClient(c.operator(c.followers()[0])).Save(t.Context(), &clusterv1.SaveSnapshotRequest{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pki.FromPEM(first.Cluster.CaCertificate, first.Cluster.CaKey, first.Cluster.ServiceAccountKey); err != nil {
		t.Errorf("the keys: %v", err)
	}
	if len(first.Cluster.GossipKey) != 32 || first.Cluster.Settings.GetPodCidr() == "" || first.Cluster.ClusterId == "" {
		t.Errorf("got gossip key of %d bytes, settings %v, cluster %q", len(first.Cluster.GossipKey), first.Cluster.Settings, first.Cluster.ClusterId)
	}
	var file bytes.Buffer
	w, err := backup.NewWriter(&file, first.Cluster, nil)
	if err != nil {
		t.Fatal(err)
	}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(message.State); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	report, err := backup.Inspect(&file, nil)
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, kind := range report.Kinds {
		counts[kind.Name] = kind.Count
	}
	if counts["test"] != 1 || counts["nodes"] != 2 || counts["namespaces"] < 3 {
		t.Errorf("got %v, want the key that was written, 2 nodes and the namespaces", counts)
	}
}
