package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/musterhq/muster/consensus/identity/identitytest"
	"github.com/musterhq/muster/consensus/transport"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// controlNode stands in for one that serves: it answers what it is told to.
type controlNode struct {
	clusterv1.UnimplementedKVServer
	clusterv1.UnimplementedRaftServer
	clusterv1.UnimplementedOperatorServer
	clusterv1.UnimplementedSnapshotServer
	clusterv1.UnimplementedSchedulerServer
	address string

	mu      sync.Mutex
	asked   []string // of verbs that change something
	peers   *clusterv1.ListPeersResponse
	err     error  // of verbs that change something
	unwell  bool   // what Autopilot says
	hangUp  func() // breaks the connection that Commit came on
	dies    bool   // hangs up instead of answering Commit
	request *clusterv1.KVCommitRequest
	watched []uint64 // after which revision
	items   []*clusterv1.KVItem
}

func (n *controlNode) ask(what string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, what)
	return n.err
}

func (n *controlNode) ListPeers(context.Context, *clusterv1.ListPeersRequest) (*clusterv1.ListPeersResponse, error) {
	return n.peers, nil
}

func (n *controlNode) Members(context.Context, *clusterv1.MembersRequest) (*clusterv1.MembersResponse, error) {
	return &clusterv1.MembersResponse{Leader: "c2", AnsweredBy: "c1", Quorum: true, ClusterId: "x", Members: []*clusterv1.Member{
		{Name: "c2", Role: "server", Address: "a:1", State: "alive", Version: "v", Leader: true, Voter: true},
	}}, nil
}

func (n *controlNode) CreateToken(context.Context, *clusterv1.CreateTokenRequest) (*clusterv1.CreateTokenResponse, error) {
	return &clusterv1.CreateTokenResponse{Token: "secret"}, nil
}

func (n *controlNode) ListTokens(context.Context, *clusterv1.ListTokensRequest) (*clusterv1.ListTokensResponse, error) {
	return &clusterv1.ListTokensResponse{Tokens: []*clusterv1.JoinToken{{Id: "i", Role: "agent", Created: 60}}}, nil
}

func (n *controlNode) DeleteToken(context.Context, *clusterv1.DeleteTokenRequest) (*clusterv1.DeleteTokenResponse, error) {
	return &clusterv1.DeleteTokenResponse{}, nil
}

// emptyState is a store without keys, as package fsm writes it.
const emptyState = "4d5553545246534d0000000148000000020801afb482f254000000280000000000000000d2df2cfca7d5b6a5d538fa219a71066674efead6b1c3419bca540c590b9bf01158c84a78"

// Save sends an empty state, and with err only a part of it.
func (n *controlNode) Save(_ *clusterv1.SaveSnapshotRequest, stream grpc.ServerStreamingServer[clusterv1.SaveSnapshotResponse]) error {
	if err := stream.Send(&clusterv1.SaveSnapshotResponse{Cluster: &clusterv1.ClusterIdentity{ClusterId: "x", CaKey: []byte("the-key-of-the-ca"), SavedBy: "c1"}}); err != nil {
		return err
	}
	state, err := hex.DecodeString(emptyState)
	if err != nil {
		return err
	}
	if err := stream.Send(&clusterv1.SaveSnapshotResponse{State: state[:20]}); err != nil || n.err != nil {
		return errors.Join(err, n.err)
	}
	return stream.Send(&clusterv1.SaveSnapshotResponse{State: state[20:]})
}

func (n *controlNode) RemovePeer(_ context.Context, r *clusterv1.RemovePeerRequest) (*clusterv1.RemovePeerResponse, error) {
	return &clusterv1.RemovePeerResponse{Already: r.Name == "gone"}, n.ask("remove " + r.Name)
}

func (n *controlNode) AddPeer(_ context.Context, r *clusterv1.AddPeerRequest) (*clusterv1.AddPeerResponse, error) {
	return &clusterv1.AddPeerResponse{}, n.ask("add " + r.Name + " " + r.Address)
}

func (n *controlNode) Autopilot(context.Context, *clusterv1.AutopilotRequest) (*clusterv1.AutopilotResponse, error) {
	return &clusterv1.AutopilotResponse{
		Healthy: !n.unwell, FailureTolerance: 1, Leader: "c1", Quorum: true, AnsweredBy: "c1", Format: 1, Warnings: []string{"c3 is gone"},
		Servers: []*clusterv1.ServerHealth{
			{Name: "c1", Address: "a:1", Voter: true, Leader: true, Healthy: true, State: "alive", Since: 60, Version: "v1", Format: 1, LastIndex: 9, AppliedIndex: 9, Disk: clusterv1.DiskState_DISK_OK, DiskFreeBytes: 3 << 29},
			{Name: "c3", Address: "a:3", Reason: "it does not answer", State: "dead", Since: 120},
		},
	}, nil
}

func (n *controlNode) GetAutopilotSettings(context.Context, *clusterv1.GetAutopilotSettingsRequest) (*clusterv1.AutopilotSettings, error) {
	return &clusterv1.AutopilotSettings{
		CleanupDeadServers: proto.Bool(true), DeadServerAfterSeconds: proto.Int64(600), MinVoters: proto.Uint32(3), StableAfterSeconds: proto.Int64(2),
	}, nil
}

func (n *controlNode) SetAutopilotSettings(ctx context.Context, given *clusterv1.AutopilotSettings) (*clusterv1.AutopilotSettings, error) {
	all, _ := n.GetAutopilotSettings(ctx, nil)
	proto.Merge(all, given)
	return all, n.ask("set " + given.String())
}

func (n *controlNode) TransferLeadership(context.Context, *clusterv1.TransferLeadershipRequest) (*clusterv1.TransferLeadershipResponse, error) {
	return &clusterv1.TransferLeadershipResponse{Leader: "c3"}, n.ask("transfer")
}

var pause = &clusterv1.SchedulerPause{Reason: "fire", By: "ann", Since: 60}

func (n *controlNode) Status(context.Context, *clusterv1.SchedulerStatusRequest) (*clusterv1.SchedulerStatusResponse, error) {
	return &clusterv1.SchedulerStatusResponse{Leader: "c2", Pause: pause, Algorithm: "spread", Nodes: 3, Ready: 4, BackingOff: 5, Unschedulable: 6, Binding: 7}, n.err
}

func (n *controlNode) Explain(_ context.Context, r *clusterv1.ExplainPodRequest) (*clusterv1.ExplainPodResponse, error) {
	if r.Name == "bound" {
		return &clusterv1.ExplainPodResponse{
			Namespace: r.Namespace, Name: r.Name, Uid: "u", State: "bound", Node: "n2", SchedulerName: "default-scheduler", Best: "n1",
			Nodes: []*clusterv1.ExplainedNode{
				{Name: "n1", Total: 150, Scores: []*clusterv1.ExplainedScore{{Name: "A", Score: 50, Weighted: 100}, {Name: "B", Score: 50, Weighted: 50}}},
				{Name: "n2", Total: 90, Scores: []*clusterv1.ExplainedScore{{Name: "A", Score: 40, Weighted: 80}, {Name: "B", Score: 10, Weighted: 10}}},
			},
		}, nil
	}
	response := &clusterv1.ExplainPodResponse{
		Namespace: r.Namespace, Name: r.Name, Uid: "u", Priority: 5, State: "unschedulable", SchedulerName: "default-scheduler", Pause: pause,
		Closest:    []string{"n0", "n6"},
		Preemption: &clusterv1.ExplainedPreemption{Node: "n0", Victims: []*clusterv1.ExplainedVictim{{Namespace: "a", Name: "low"}}, Violations: 1},
	}
	for i := range 6 {
		response.Nodes = append(response.Nodes, &clusterv1.ExplainedNode{
			Name: fmt.Sprint("n", i), Needs: []string{"300m more cpu free (of 4)"},
			Refusals: []*clusterv1.ExplainedRefusal{{Filter: "NodeResourcesFit", Reasons: []string{"Insufficient cpu"}}},
		})
	}
	response.Nodes = append(response.Nodes, &clusterv1.ExplainedNode{
		Name: "n6", Needs: []string{"the node uncordoned"},
		Refusals: []*clusterv1.ExplainedRefusal{{Filter: "NodeUnschedulable", Reasons: []string{"node(s) were unschedulable"}}},
	})
	return response, nil
}

func (n *controlNode) Pause(_ context.Context, r *clusterv1.PauseSchedulerRequest) (*clusterv1.PauseSchedulerResponse, error) {
	return &clusterv1.PauseSchedulerResponse{Pause: pause, Already: r.Reason != pause.Reason}, n.ask("pause")
}

func (n *controlNode) Resume(context.Context, *clusterv1.ResumeSchedulerRequest) (*clusterv1.ResumeSchedulerResponse, error) {
	return &clusterv1.ResumeSchedulerResponse{}, n.ask("resume")
}

func (n *controlNode) SetAlgorithm(_ context.Context, r *clusterv1.SetSchedulerAlgorithmRequest) (*clusterv1.SetSchedulerAlgorithmResponse, error) {
	return &clusterv1.SetSchedulerAlgorithmResponse{}, n.ask("algorithm " + r.Algorithm)
}

func (n *controlNode) ListProfiles(context.Context, *clusterv1.ListSchedulerProfilesRequest) (*clusterv1.ListSchedulerProfilesResponse, error) {
	return &clusterv1.ListSchedulerProfilesResponse{Profiles: []*clusterv1.SchedulerProfile{
		{Name: "batch", Differences: []string{"evicts nobody", "MostAllocated of cpu"}, Waiting: 3}, {Name: "batsh", Missing: true, Waiting: 1}, {Name: "default-scheduler"},
	}}, nil
}

func (n *controlNode) GetProfiles(context.Context, *clusterv1.GetSchedulerProfilesRequest) (*clusterv1.GetSchedulerProfilesResponse, error) {
	return &clusterv1.GetSchedulerProfilesResponse{}, nil
}

func (n *controlNode) SetProfiles(_ context.Context, r *clusterv1.SetSchedulerProfilesRequest) (*clusterv1.SetSchedulerProfilesResponse, error) {
	if len(r.File) > 0 {
		return nil, status.Error(codes.InvalidArgument, "profiles: profiles[0].schedulerName: Required value")
	}
	return &clusterv1.SetSchedulerProfilesResponse{Profiles: []*clusterv1.SchedulerProfile{
		{Name: "default-scheduler", Change: "unchanged"}, {Name: "batch", Change: "removed", Missing: true},
	}}, n.ask("reset profiles")
}

func (n *controlNode) Get(_ context.Context, r *clusterv1.KVGetRequest) (*clusterv1.KVGetResponse, error) {
	for _, item := range n.items {
		if bytes.Equal(item.Key, r.Key) {
			return &clusterv1.KVGetResponse{Item: item, Revision: 9}, nil
		}
	}
	return &clusterv1.KVGetResponse{Revision: 9}, nil
}

func (n *controlNode) List(_ context.Context, r *clusterv1.KVListRequest) (*clusterv1.KVListResponse, error) {
	if len(r.After) > 0 && r.Revision != 9 {
		return nil, status.Errorf(codes.InvalidArgument, "a further page of revision %d, want 9", r.Revision)
	}
	page := &clusterv1.KVListResponse{Revision: 9}
	for _, item := range n.items {
		switch {
		case !bytes.HasPrefix(item.Key, r.Prefix) || bytes.Compare(item.Key, r.After) <= 0:
		case len(page.Items) == min(int(r.Limit), 2): // pages of two
			page.More = true
		default:
			page.Items = append(page.Items, item)
		}
	}
	return page, nil
}

func (n *controlNode) Commit(ctx context.Context, r *clusterv1.KVCommitRequest) (*clusterv1.KVCommitResponse, error) {
	err := n.ask("commit")
	n.mu.Lock()
	defer n.mu.Unlock()
	n.request = r
	if n.dies {
		go n.hangUp()
		<-ctx.Done()
	}
	return &clusterv1.KVCommitResponse{Revision: 12, OpRevisions: []uint64{12}}, err
}

// Watch breaks after every change.
func (n *controlNode) Watch(r *clusterv1.KVWatchRequest, stream grpc.ServerStreamingServer[clusterv1.KVWatchResponse]) error {
	n.mu.Lock()
	n.watched = append(n.watched, r.After)
	n.mu.Unlock()
	if err := stream.Send(&clusterv1.KVWatchResponse{Revision: r.After}); err != nil {
		return err
	}
	next := r.After + 1
	event := &clusterv1.KVEvent{Key: []byte("k"), Value: []byte("v"), Revision: next}
	if next%2 == 1 {
		event.Value, event.Delete = nil, true
	}
	if err := stream.Send(&clusterv1.KVWatchResponse{Events: []*clusterv1.KVEvent{event}, Revision: next}); err != nil {
		return err
	}
	return status.Error(codes.Unavailable, "going away")
}

// lab is control nodes c1, c2, … that all take c2 for the leader, and the
// kubeconfig of an administrator.
type lab struct {
	t          *testing.T
	nodes      []*controlNode
	kubeconfig string
}

func newLab(t *testing.T, count int) *lab {
	t.Helper()
	cluster := identitytest.New(t)
	l := &lab{t: t}
	for i := range count {
		id := cluster.Server("c" + string(rune('1'+i)))
		mux, err := transport.Listen("127.0.0.1:0", id)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		server := grpc.NewServer(transport.ServerOptions()...)
		node := &controlNode{address: mux.Addr().String(), hangUp: server.Stop}
		clusterv1.RegisterKVServer(server, node)
		clusterv1.RegisterRaftServer(server, node)
		clusterv1.RegisterOperatorServer(server, node)
		clusterv1.RegisterSnapshotServer(server, node)
		clusterv1.RegisterSchedulerServer(server, node)
		var running sync.WaitGroup
		running.Go(func() { _ = mux.Run(ctx) })
		running.Go(func() { _ = server.Serve(mux.GRPC()) })
		t.Cleanup(func() { server.Stop(); cancel(); running.Wait() })
		l.nodes = append(l.nodes, node)
	}
	for i, node := range l.nodes {
		leader := l.nodes[min(1, count-1)]
		node.peers = &clusterv1.ListPeersResponse{
			Leader: "c2", LeaderAddress: leader.address, AnsweredBy: "c" + string(rune('1'+i)), Quorum: true,
			Peers: []*clusterv1.Peer{
				{Name: "c2", Address: leader.address, Voter: true, Leader: true, State: "alive", Reachable: true, Version: "v1", Lag: 7, Disk: clusterv1.DiskState_DISK_FULL, DiskFreeBytes: 5},
				{Name: "c3", Address: "a:3", State: "dead"},
			},
		}
	}
	admin := cluster.Admin()
	key, err := x509.MarshalPKCS8PrivateKey(admin.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: "https://" + l.nodes[0].address, CertificateAuthorityData: cluster.CAPEM()}
	config.AuthInfos["admin"] = &clientcmdapi.AuthInfo{
		ClientCertificateData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: admin.Certificate[0]}),
		ClientKeyData:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	}
	config.Contexts["c"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "admin"}
	config.CurrentContext = "c"
	l.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, l.kubeconfig); err != nil {
		t.Fatal(err)
	}
	return l
}

// muster runs a command line and returns what it printed.
func (l *lab) muster(input string, args ...string) (stdout, stderr string, err error) {
	l.t.Helper()
	var out, errs bytes.Buffer
	cmd := newCommand()
	cmd.SetArgs(append(args, "--kubeconfig", l.kubeconfig))
	cmd.SetIn(strings.NewReader(input))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	err = cmd.ExecuteContext(l.t.Context())
	return out.String(), errs.String(), err
}

func TestOperatorVerbsPrint(t *testing.T) {
	l := newLab(t, 2)
	l.nodes[0].items = []*clusterv1.KVItem{
		{Key: []byte("a"), Value: []byte("1"), CreateRevision: 1, Revision: 2},
		{Key: []byte("b"), Value: []byte("two\n"), CreateRevision: 3, Revision: 3},
		{Key: []byte("c"), Value: []byte{0xff}, CreateRevision: 4, Revision: 4},
	}
	l.nodes[0].peers.Warning = "something is wrong"
	for _, test := range []struct{ line, want, stderr string }{
		{"operator kv get a", "1\n", ""},
		{"operator kv get b", "two\n", ""},
		{"operator kv get a -o json", `{ "key": "a", "value": "1", "createRevision": 1, "revision": 2 }`, ""},
		{"operator kv get c -o json", `{ "key": "c", "valueBase64": "/w==", "createRevision": 4, "revision": 4 }`, ""},
		{"operator kv list", "KEY REVISION BYTES a 2 1 b 3 4 c 4 1", ""},
		{"operator kv list b --keys-only", "KEY REVISION b 3", ""},
		{"operator kv list -o json --keys-only --limit 1", `{ "revision": 9, "more": true, "items": [ { "key": "a", "createRevision": 1, "revision": 2 } ] }`, ""},
		{"operator kv list none -o json", `{ "revision": 9, "more": false, "items": [] }`, ""},
		{"operator kv put a x", "12", ""},
		{"operator kv put a x -o json", `{ "revision": 12 }`, ""},
		{"operator kv delete a", "12", ""},
		{"operator kv delete a -o json", `{ "deleted": true, "revision": 12 }`, ""},
		{"operator kv watch --after 5 --count 2", "6 put k 1 7 delete k 0", ""},
		{"operator kv watch --count 1", "10 put k 1", ""},
		{"operator kv watch --count 2 -o json", `{"type":"put","key":"k","value":"v","revision":10} {"type":"delete","key":"k","revision":11}`, ""},
		{"operator raft list-peers", "NAME ADDRESS STATE VOTER LEADER LAG VERSION DISK c2 " + l.nodes[1].address + " alive yes yes 7 v1 full c3 a:3 dead no no - - -", "something is wrong"},
		{"operator raft list-peers -o json", `{ "leader": "c2", "leaderAddress": "` + l.nodes[1].address + `", "quorum": true, "answeredBy": "c1", "term": 0, "lastIndex": 0, "appliedIndex": 0, "warning": "something is wrong", "peers": [ { "name": "c2", "address": "` + l.nodes[1].address + `", "state": "alive", "voter": true, "leader": true, "reachable": true, "version": "v1", "lag": 7, "disk": "full", "diskFreeBytes": 5 }, { "name": "c3", "address": "a:3", "state": "dead", "voter": false, "leader": false, "reachable": false } ] }`, "something is wrong"},
		{"operator raft add-peer c9 10.0.0.9:6443", "added c9 at 10.0.0.9:6443; it votes once it has caught up", ""},
		{"operator raft add-peer c9 10.0.0.9:6443 -o json", `{ "added": "c9", "address": "10.0.0.9:6443", "voter": false }`, ""},
		{"operator raft remove-peer gone", "gone was removed before", ""},
		{"operator autopilot get-config", "cleanup-dead-servers true dead-server-after 10m0s min-voters 3 stable-after 2s", ""},
		{"operator autopilot get-config -o json", `{ "cleanupDeadServers": true, "deadServerAfter": "10m0s", "minVoters": 3, "stableAfter": "2s" }`, ""},
		{"operator autopilot set-config --min-voters 5 --dead-server-after 1h", "cleanup-dead-servers true dead-server-after 1h0m0s min-voters 5 stable-after 2s", ""},
		{"operator autopilot set-config --cleanup-dead-servers=false -o json", `{ "cleanupDeadServers": false, "deadServerAfter": "10m0s", "minVoters": 3, "stableAfter": "2s" }`, ""},
		{"operator autopilot health", "healthy: yes, 1 more may fail NAME ADDRESS VOTER LEADER HEALTHY SINCE CONTACT INDEX FORMAT VERSION DISK FREE REASON c1 a:1 yes yes yes 1970-01-01T00:01:00Z leads 9 1 v1 1.5 GiB - c3 a:3 no no no 1970-01-01T00:02:00Z - - - - - it does not answer", "warning: c3 is gone"},
		{"operator autopilot health -o json", `{ "healthy": true, "failureTolerance": 1, "leader": "c1", "quorum": true, "answeredBy": "c1", "format": 1, "warnings": [ "c3 is gone" ], "servers": [ { "name": "c1", "address": "a:1", "voter": true, "leader": true, "healthy": true, "state": "alive", "since": "1970-01-01T00:01:00Z", "version": "v1", "format": 1, "lastIndex": 9, "appliedIndex": 9, "lastContactMs": 0, "disk": "ok", "diskFreeBytes": 1610612736 }, { "name": "c3", "address": "a:3", "voter": false, "leader": false, "healthy": false, "reason": "it does not answer", "state": "dead", "since": "1970-01-01T00:02:00Z", "lastContactMs": 0 } ] }`, "warning: c3 is gone"},
		{"operator raft remove-peer c9", "removed c9", ""},
		{"operator raft remove-peer c9 -o json", `{ "already": false, "removed": "c9" }`, ""},
		{"operator raft transfer-leadership", "c3 leads", ""},
		{"operator raft transfer-leadership -o json", `{ "leader": "c3" }`, ""},
		{"operator scheduler status", "leader c2 paused since 1970-01-01T00:01:00Z by ann: fire algorithm spread nodes 3 ready 4 backing off 5 unschedulable 6 binding 7", ""},
		{"operator scheduler status -o json", `{ "leader": "c2", "paused": true, "pause": { "reason": "fire", "by": "ann", "since": "1970-01-01T00:01:00Z" }, "algorithm": "spread", "nodes": 3, "ready": 4, "backingOff": 5, "unschedulable": 6, "binding": 7 }`, ""},
		{"operator scheduler pause --reason again", "was paused before: since 1970-01-01T00:01:00Z by ann: fire", ""},
		{"operator scheduler pause --reason fire", "paused; muster operator scheduler resume ends it", ""},
		{"operator scheduler pause -o json", `{ "already": true, "pause": { "reason": "fire", "by": "ann", "since": "1970-01-01T00:01:00Z" }, "paused": true }`, ""},
		{"operator scheduler resume", "resumed", ""},
		{"operator scheduler resume -o json", `{ "already": false, "paused": false }`, ""},
		{"explain pod p -n shop", "pod shop/p (priority 5) waits: no node can take it scheduling is paused since 1970-01-01T00:01:00Z by ann: fire " +
			"0 of 7 nodes could take it now NODES FILTER REASON WHICH 6 NodeResourcesFit Insufficient cpu n0, n1, n2, n3 and 2 more 1 NodeUnschedulable node(s) were unschedulable n6 " +
			"it would fit, with least to change: n0: with 300m more cpu free (of 4) n6: with the node uncordoned " +
			"evictions that would help: on n0, a/low (priority 0); 1 of them against a disruption budget", ""},
		{"explain pod bound", "pod default/bound (priority 0) is on n2 2 of 2 nodes could take it now scores of those that could, weighted: NODE TOTAL A B n1 150 100 50 n2 (its node) 90 80 10", ""},
		{"explain pod bound -o json", `{ "namespace": "default", "name": "bound", "uid": "u", "priority": 0, "state": "bound", "node": "n2", "schedulerName": "default-scheduler", "best": "n1", "closest": [], "nodes": [ { "name": "n1", "fits": true, "scores": [ { "name": "A", "score": 50, "weighted": 100 }, { "name": "B", "score": 50, "weighted": 50 } ], "total": 150 }, { "name": "n2", "fits": true, "scores": [ { "name": "A", "score": 40, "weighted": 80 }, { "name": "B", "score": 10, "weighted": 10 } ], "total": 90 } ] }`, ""},
		{"operator scheduler algorithm binpack", "algorithm: binpack", ""},
		{"operator scheduler profiles", "PROFILE WAITING DIFFERS batch 3 evicts nobody; MostAllocated of cpu batsh 1 there is no such profile: these pods are left to another scheduler default-scheduler 0 -", ""},
		{"operator scheduler profiles -o json", `[ { "name": "batch", "differences": [ "evicts nobody", "MostAllocated of cpu" ], "waiting": 3 }, { "name": "batsh", "missing": true, "differences": [], "waiting": 1 }, { "name": "default-scheduler", "differences": [], "waiting": 0 } ]`, ""},
		{"operator scheduler profiles show", "", "no profiles are set: there is default-scheduler, as it is without"},
		{"operator scheduler profiles reset", "default-scheduler unchanged as the standard one batch removed pods that name it are left alone", ""},
		{"members", "NAME ROLE ADDRESS STATE VERSION LEADER c2 server a:1 alive v yes", ""},
		{"members -o json", `{ "clusterID": "x", "leader": "c2", "quorum": true, "answeredBy": "c1", "members": [ { "name": "c2", "role": "server", "address": "a:1", "state": "alive", "version": "v", "leader": true, "voter": true } ] }`, ""},
		{"token create", "secret", ""},
		{"token create -o json", `{ "token": "secret" }`, ""},
		{"token list", "ID ROLE CREATED USER GROUPS i agent 1970-01-01T00:01:00Z", ""},
		{"token list -o json", `{ "tokens": [ { "id": "i", "role": "agent", "created": "1970-01-01T00:01:00Z" } ] }`, ""},
		{"token revoke i", "", ""},
		{"token revoke i -o json", `{ "revoked": "i" }`, ""},
	} {
		t.Run(test.line, func(t *testing.T) {
			stdout, stderr, err := l.muster("", strings.Fields(test.line)...)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := strings.Join(strings.Fields(stdout), " "), strings.Join(strings.Fields(test.want), " "); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if !strings.Contains(stderr, test.stderr) || test.stderr == "" && stderr != "" {
				t.Errorf("on standard error: %q, want %q", stderr, test.stderr)
			}
		})
	}
}

func TestOperatorVerbsRefuse(t *testing.T) {
	l := newLab(t, 1)
	for _, test := range []struct{ line, want string }{
		{"operator kv get none", `no key "none" at revision 9`},
		{"operator kv get", "want muster operator kv get KEY"},
		{"operator kv get a -o yaml", "want text or json"},
		{"operator kv list --limit -1", "want 0 or more"},
		{"operator kv put a", "want a value"},
		{"operator kv put a b --file c", "want a value"},
		{"operator kv put a --file /does/not/exist", "/does/not/exist"},
		{"operator kv put a b --if-revision 1 --if-exists", "none of the others can be"},
		{"operator kv putt a b", `unknown command "putt"`},
		{"operator rafts", `unknown command "rafts"`},
		{"operator raft remove-peer", "want muster operator raft remove-peer NAME"},
		{"operator raft add-peer c9", "1 arguments were given"},
		{"explain pod", "want muster explain pod NAME"},
		{"operator scheduler pause now", "unknown command"},
		{"operator scheduler algorithm", "accepts 1 arg"},
		{"operator scheduler profiles list", "unknown command"},
		{"operator scheduler profiles set", "name a file"},
		{"operator scheduler profiles set -f none.yaml", "no such file"},
		{"operator scheduler profiles set -f plan.go", "profiles[0].schedulerName: Required value"},
		{"operator scheduler algorithm magic", "invalid argument"},
		{"operator autopilot set-config", "nothing to change"},
		{"operator autopilot set-config --stable-after 1500ms", "whole seconds"},
	} {
		t.Run(test.line, func(t *testing.T) {
			stdout, _, err := l.muster("", strings.Fields(test.line)...)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
			if stdout != "" {
				t.Errorf("printed %q", stdout)
			}
		})
	}
	if got := l.nodes[0].asked; len(got) > 0 {
		t.Errorf("the cluster was asked to %v", got)
	}
}

func TestKVWritesSayWhatIsMeant(t *testing.T) {
	l := newLab(t, 1)
	file := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(file, []byte("from file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		line  string
		guard *clusterv1.KVGuard
		value string
	}{
		{"put a hello", nil, "hello"},
		{"put a --file " + file, nil, "from file"},
		{"put a --file - --if-revision 0", &clusterv1.KVGuard{Key: []byte("a")}, "from stdin"},
		{"put a hello --if-revision 7", &clusterv1.KVGuard{Key: []byte("a"), Revision: 7}, "hello"},
		{"delete a --if-exists", &clusterv1.KVGuard{Key: []byte("a"), Exists: true}, ""},
	} {
		t.Run(test.line, func(t *testing.T) {
			if _, _, err := l.muster("from stdin", append([]string{"operator", "kv"}, strings.Fields(test.line)...)...); err != nil {
				t.Fatal(err)
			}
			r := l.nodes[0].request
			if len(r.Ops) != 1 || string(r.Ops[0].Key) != "a" || string(r.Ops[0].Value) != test.value || r.Ops[0].Delete != strings.HasPrefix(test.line, "delete") {
				t.Errorf("operations %v", r.Ops)
			}
			switch g := test.guard; {
			case g == nil && len(r.Guards) != 0, g != nil && len(r.Guards) != 1:
				t.Errorf("guards %v, want %v", r.Guards, g)
			case g != nil && (string(r.Guards[0].Key) != "a" || r.Guards[0].Revision != g.Revision || r.Guards[0].Exists != g.Exists):
				t.Errorf("guard %v, want %v", r.Guards[0], g)
			}
		})
	}
}

func TestLeaderIsFoundFromAnyControlNode(t *testing.T) {
	l := newLab(t, 2)
	l.nodes[0].err = status.Error(codes.FailedPrecondition, "c1 does not lead")
	if stdout, _, err := l.muster("", "operator", "raft", "remove-peer", "c9"); err != nil || stdout != "removed c9\n" {
		t.Errorf("got %q, %v", stdout, err)
	}
	if got := l.nodes[1].asked; len(got) != 1 || got[0] != "remove c9" {
		t.Errorf("the leader was asked to %v", got)
	}
	// What the leader itself refuses is the answer.
	l.nodes[1].err = status.Error(codes.FailedPrecondition, "too few would be left")
	if _, _, err := l.muster("", "operator", "raft", "remove-peer", "c9"); err == nil || !strings.Contains(err.Error(), "too few") {
		t.Errorf("got %v, want the leader's word", err)
	}
	if got := len(l.nodes[1].asked); got != 2 {
		t.Errorf("the leader was asked %d times, want once for each command", got)
	}
	// No leader: what the one that was asked says.
	l.nodes[0].peers.Leader, l.nodes[0].peers.LeaderAddress = "", ""
	if _, _, err := l.muster("", "operator", "raft", "transfer-leadership"); err == nil || !strings.Contains(err.Error(), "c1 does not lead") {
		t.Errorf("got %v, want that there is no leader", err)
	}
}

// A write that is sent twice may overwrite what came in between.
func TestWritesAreSentOnceUnlessCertainlyNotDone(t *testing.T) {
	for _, test := range []struct {
		name   string
		first  func(*controlNode)
		second int // how often the second node is asked
		err    string
	}{
		{"the first says that it did nothing", func(n *controlNode) { n.err = status.Error(codes.Unavailable, "no leader") }, 1, ""},
		{"the first does not know", func(n *controlNode) { n.err = status.Error(codes.Unknown, "outcome unknown") }, 0, "outcome unknown"},
		{"the connection breaks before the answer", func(n *controlNode) { n.dies = true }, 0, "may or may not have been done"},
		{"a guard did not hold", func(n *controlNode) { n.err = status.Error(codes.Aborted, "at revision 7") }, 0, "at revision 7"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t, 2)
			test.first(l.nodes[0])
			_, _, err := l.muster("", "operator", "kv", "put", "a", "b", "--server", l.nodes[0].address, "--server", l.nodes[1].address)
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("got %v, want %q", err, test.err)
			}
			if got := len(l.nodes[1].asked); got != test.second {
				t.Errorf("the second was asked %d times, want %d", got, test.second)
			}
		})
	}
	t.Run("nobody is there", func(t *testing.T) {
		l := newLab(t, 1)
		if _, _, err := l.muster("", "operator", "kv", "put", "a", "b", "--server", "127.0.0.1:1", "--server", l.nodes[0].address); err != nil {
			t.Errorf("the second one was there: %v", err)
		}
	})
}

func TestBrokenWatchGoesOnWhereItWas(t *testing.T) {
	l := newLab(t, 1)
	if _, _, err := l.muster("", "operator", "kv", "watch", "--after", "3", "--count", "3"); err != nil {
		t.Fatal(err)
	}
	if got := l.nodes[0].watched; len(got) != 3 || got[0] != 3 || got[1] != 4 || got[2] != 5 {
		t.Errorf("watched after %v, want 3, 4, 5", got)
	}
}

func TestSnapshotIsSavedAndInspected(t *testing.T) {
	l := newLab(t, 1)
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, passphrase := range [][]string{nil, {"--passphrase-file", secret}} {
		path := filepath.Join(dir, "saved"+strings.Repeat("-sealed", len(passphrase)/2))
		saved, _, err := l.muster("", append([]string{"operator", "snapshot", "save", path}, passphrase...)...)
		if err != nil || !strings.Contains(saved, "cluster x at revision 0") {
			t.Fatalf("save: got %q, %v", saved, err)
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if readable := bytes.Contains(raw, []byte("the-key-of-the-ca")); readable != (passphrase == nil) {
			t.Errorf("%v: the key can be read: %v", passphrase, readable)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("got %v, %v; want a file for its owner only", info.Mode(), err)
		}
		if _, _, err := l.muster("", append([]string{"operator", "snapshot", "save", path}, passphrase...)...); err == nil || !strings.Contains(err.Error(), "exists already") {
			t.Errorf("over an older file: got %v", err)
		}
		inspect := newCommand()
		var out bytes.Buffer
		inspect.SetOut(&out)
		inspect.SetArgs(append([]string{"operator", "snapshot", "inspect", path, "-o", "json"}, passphrase...))
		if err := inspect.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), `"clusterID": "x"`) {
			t.Errorf("inspect: got %s, %v", out.String(), err)
		}
		raw[len(raw)/2] ^= 1
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		inspect.SetArgs(append([]string{"operator", "snapshot", "inspect", path}, passphrase...))
		if err := inspect.ExecuteContext(t.Context()); err == nil {
			t.Errorf("%v: a flipped byte was not noticed", passphrase)
		}
	}
}

// Half a file that looks like a whole one would be found out when it is needed.
func TestFailedSaveLeavesNothing(t *testing.T) {
	l := newLab(t, 1)
	l.nodes[0].err = status.Error(codes.Unknown, "gone")
	dir := t.TempDir()
	if _, _, err := l.muster("", "operator", "snapshot", "save", filepath.Join(dir, "saved")); err == nil {
		t.Error("no error")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// A script asks by the status; the table is printed all the same.
func TestHealthEndsWithStatus1WhenUnwell(t *testing.T) {
	l := newLab(t, 1)
	l.nodes[0].unwell = true
	stdout, _, err := l.muster("", "operator", "autopilot", "health")
	if !errors.Is(err, errReported) || !strings.Contains(stdout, "healthy: no") {
		t.Errorf("got %v and %q", err, stdout)
	}
}
