package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// Restore takes what is sent, unless it is told to fail.
func (n *controlNode) Restore(stream grpc.ClientStreamingServer[clusterv1.RestoreSnapshotRequest, clusterv1.RestoreSnapshotResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	what := "restore " + first.ClusterId
	if first.Foreign {
		what += " foreign"
	}
	if err := n.ask(what); err != nil {
		return err
	}
	var state []byte
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		state = append(state, message.State...)
	}
	if !bytes.HasPrefix(state, []byte("MUSTRFSM")) {
		return status.Error(codes.InvalidArgument, "no state")
	}
	return stream.SendAndClose(&clusterv1.RestoreSnapshotResponse{SavedRevision: 5, Revision: 1000, Items: 3})
}

func TestRestoreAsksAndFindsTheLeader(t *testing.T) {
	l := newLab(t, 2)
	follower, leader := l.nodes[0], l.nodes[1]
	follower.err = status.Error(codes.FailedPrecondition, "the leader is elsewhere")
	follower.peers = &clusterv1.ListPeersResponse{Leader: "c2", LeaderAddress: leader.address, AnsweredBy: "c1"}
	path := filepath.Join(t.TempDir(), "saved")
	if _, _, err := l.muster("", "operator", "snapshot", "save", path, "--server", leader.address); err != nil {
		t.Fatal(err)
	}

	_, stderr, err := l.muster("no\n", "operator", "snapshot", "restore", path)
	if err == nil || !strings.Contains(err.Error(), "nothing was changed") || !strings.Contains(stderr, "cluster x at revision 0") {
		t.Errorf("answered no: %v, and on standard error %q", err, stderr)
	}
	if asked := append(follower.asked, leader.asked...); len(asked) > 0 {
		t.Errorf("asked %v all the same", asked)
	}
	stdout, _, err := l.muster("yes\n", "operator", "snapshot", "restore", path)
	if err != nil || !strings.Contains(stdout, "restored 3 objects as they were at revision 5; the revision is 1000 now") {
		t.Errorf("answered yes: %q, %v", stdout, err)
	}
	stdout, stderr, err = l.muster("", "operator", "snapshot", "restore", path, "--yes", "--foreign", "-o", "json")
	if err != nil || !strings.Contains(stdout, `"savedRevision": 5`) || stderr != "" {
		t.Errorf("--yes: %q, %q, %v", stdout, stderr, err)
	}
	if got := strings.Join(leader.asked, ", "); got != "restore x, restore x foreign" {
		t.Errorf("the leader was asked to %s", got)
	}

	leader.err = status.Error(codes.PermissionDenied, "it is of another cluster")
	if _, _, err := l.muster("", "operator", "snapshot", "restore", path, "--yes"); err == nil || !strings.Contains(err.Error(), "it is of another cluster") {
		t.Errorf("refused: %v", err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-1] ^= 1
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	before := len(leader.asked)
	if _, _, err := l.muster("", "operator", "snapshot", "restore", path, "--yes"); err == nil || !strings.Contains(err.Error(), "corrupt snapshot") {
		t.Errorf("a damaged file: %v", err)
	}
	if len(leader.asked) != before {
		t.Error("the cluster was asked to restore a damaged file")
	}
}

func TestRecoverRefusesWhatIsNoControlNode(t *testing.T) {
	cmd := newCommand()
	cmd.SetArgs([]string{"operator", "recover", "--dir", t.TempDir()})
	if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "holds no control node") {
		t.Errorf("got %v, want that it holds no control node", err)
	}
}
