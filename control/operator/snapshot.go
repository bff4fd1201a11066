package operator

import (
	"bufio"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/control/store"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// stateBytesMax is how much state one message carries.
const stateBytesMax = 1 << 20

// Snapshot is cluster.v1.Snapshot on one control node.
type Snapshot struct {
	clusterv1.UnimplementedSnapshotServer
	store    *store.Store
	cluster  func() (*clusterv1.ClusterIdentity, error)
	failures Failures
}

// NewSnapshot makes the service. cluster says what is saved beside the state.
func NewSnapshot(s *store.Store, cluster func() (*clusterv1.ClusterIdentity, error), failures Failures) *Snapshot {
	return &Snapshot{store: s, cluster: cluster, failures: failures}
}

// Register adds the service to a gRPC server.
func (s *Snapshot) Register(r grpc.ServiceRegistrar) { clusterv1.RegisterSnapshotServer(r, s) }

// Save sends the state as it is when the call begins; writes go on meanwhile.
func (s *Snapshot) Save(r *clusterv1.SaveSnapshotRequest, stream grpc.ServerStreamingServer[clusterv1.SaveSnapshotResponse]) error {
	if !r.Local {
		if err := s.store.ReadBarrier(stream.Context()); err != nil {
			return s.failures.status(err)
		}
	}
	cluster, err := s.cluster()
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	write, err := s.store.Raw().Snapshot()
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
