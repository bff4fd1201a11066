package operator

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/keyring"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// stateBytesMax is how much state one message carries.
const stateBytesMax = 1 << 20

// SnapshotConfig is what the service needs of its control node.
type SnapshotConfig struct {
	Store *store.Store
	// Cluster is what is saved beside the state, and tells this cluster from others.
	Cluster func() (*clusterv1.ClusterIdentity, error)
	// View says who leads.
	View func() View
	// Root gives what wraps the keyring of the cluster whose CA has this key (PEM).
	Root func(caKey []byte) (keyring.Root, error)
	// Restored is called after the state was replaced, for what every cluster has.
	Restored func(context.Context) error
	Failures Failures
	Logger   *slog.Logger
}

// Snapshot is cluster.v1.Snapshot on one control node.
type Snapshot struct {
	clusterv1.UnimplementedSnapshotServer
	SnapshotConfig
	restoring sync.Mutex
}

// NewSnapshot makes the service.
func NewSnapshot(cfg SnapshotConfig) *Snapshot { return &Snapshot{SnapshotConfig: cfg} }

// Register adds the service to a gRPC server.
func (s *Snapshot) Register(r grpc.ServiceRegistrar) { clusterv1.RegisterSnapshotServer(r, s) }

// Save sends the state as it is when the call begins; writes go on meanwhile.
func (s *Snapshot) Save(r *clusterv1.SaveSnapshotRequest, stream grpc.ServerStreamingServer[clusterv1.SaveSnapshotResponse]) error {
	if !r.Local {
		if err := s.Store.ReadBarrier(stream.Context()); err != nil {
			return s.Failures.status(err)
		}
	}
	cluster, err := s.Cluster()
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	write, err := s.Store.Raw().Snapshot()
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	if err := stream.Send(&clusterv1.SaveSnapshotResponse{Cluster: cluster}); err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(stateWriter{stream}, stateBytesMax)
	if err := write(buffered); err != nil {
		return err
	}
	return buffered.Flush()
}

// stateWriter sends what is written to it.
type stateWriter struct {
	stream grpc.ServerStreamingServer[clusterv1.SaveSnapshotResponse]
}

func (w stateWriter) Write(state []byte) (int, error) {
	sent := 0
	for len(state) > 0 {
		n := min(len(state), stateBytesMax)
		if err := w.stream.Send(&clusterv1.SaveSnapshotResponse{State: state[:n]}); err != nil {
			return sent, err
		}
		sent, state = sent+n, state[n:]
	}
	return sent, nil
}

// Restore replaces the state of the whole cluster by a saved one.
func (s *Snapshot) Restore(stream grpc.ClientStreamingServer[clusterv1.RestoreSnapshotRequest, clusterv1.RestoreSnapshotResponse]) error {
	if view := s.View(); view.Leader != view.Name {
		if view.Leader == "" {
			return status.Error(codes.Unavailable, "no leader: a restore needs a quorum of control nodes; without one see muster operator recover, or muster server --init --restore")
		}
		return status.Errorf(codes.FailedPrecondition, "the leader is %s at %s", view.Leader, view.LeaderAddress)
	}
	if !s.restoring.TryLock() {
		return status.Error(codes.Aborted, "another restore is under way")
	}
	defer s.restoring.Unlock()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	cluster, err := s.Cluster()
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	if first.ClusterId != cluster.ClusterId && !first.Foreign {
		return status.Errorf(codes.PermissionDenied, "the snapshot is of cluster %s, this is %s: with --foreign its state is taken all the same", first.ClusterId, cluster.ClusterId)
	}
	s.Logger.Warn("restore of a saved state begins", "cluster", first.ClusterId)
	var root *keyring.Root // nil: ours
	if len(first.CaKey) > 0 {
		given, err := s.Root(first.CaKey)
		if err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		root = &given
	}
	done, err := s.Store.Replace(stream.Context(), &stateReader{stream: stream, left: first.State}, root)
	if errors.Is(err, store.ErrInvalid) {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if errors.Is(err, store.ErrReplaceInterrupted) {
		return status.Error(codes.Aborted, err.Error())
	}
	if err != nil {
		s.Logger.Error("restore of a saved state ended", "error", err)
		return s.Failures.status(err)
	}
	s.Logger.Warn("the cluster's state was replaced by a saved one", "saved revision", done.SavedRevision, "revision", done.Revision, "items", done.Items)
	if err := s.Restored(stream.Context()); err != nil {
		s.Logger.Error("what every cluster has was not made after the restore; the next leader does", "error", err)
	}
	return stream.SendAndClose(&clusterv1.RestoreSnapshotResponse{
		SavedRevision: done.SavedRevision, Revision: done.Revision, Items: uint64(done.Items),
	})
}

// stateReader reads what is sent.
type stateReader struct {
	stream grpc.ClientStreamingServer[clusterv1.RestoreSnapshotRequest, clusterv1.RestoreSnapshotResponse]
	left   []byte
}

func (r *stateReader) Read(into []byte) (int, error) {
	for len(r.left) == 0 {
		message, err := r.stream.Recv()
		if err != nil { // io.EOF when the sender is done
			return 0, err
		}
		r.left = message.State
	}
	n := copy(into, r.left)
	r.left = r.left[n:]
	return n, nil
}
