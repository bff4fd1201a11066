package operator

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/keyring"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

var (
	ErrNoKey = errors.New("there is no such key")
	// ErrLastKey and ErrNewestKey: nothing would be left to sign with, or an older
	// key would sign again.
	ErrLastKey   = errors.New("it is the only key: rotate first")
	ErrNewestKey = errors.New("it is the newest key: rotate first")
)

// SigningKey is a key that tokens are signed with.
type SigningKey struct {
	ID      string
	Created time.Time // zero: with the cluster
	Signs   bool
	From    time.Time // when it will be used to sign; zero: it is or was
}

// SigningKeys looks after the keys of service accounts' tokens.
type SigningKeys interface {
	List(ctx context.Context) ([]SigningKey, error) // oldest first
	Rotate(ctx context.Context) (id string, err error)
	Remove(ctx context.Context, id string) error // ErrNoKey, ErrLastKey, ErrNewestKey
}

// Keyring is cluster.v1.Keyring on one control node.
type Keyring struct {
	clusterv1.UnimplementedKeyringServer
	ring     store.Keyring
	signing  SigningKeys
	failures Failures
}

// NewKeyring makes the service. failures say what the log's errors mean.
func NewKeyring(ring store.Keyring, signing SigningKeys, failures Failures) *Keyring {
	own := Failures{
		{Err: ErrNoKey, Code: codes.NotFound},
		{Err: ErrLastKey, Code: codes.FailedPrecondition},
		{Err: ErrNewestKey, Code: codes.FailedPrecondition},
		{Err: store.ErrKeyInUse, Code: codes.FailedPrecondition},
		{Err: keyring.ErrPrimary, Code: codes.FailedPrecondition},
		{Err: keyring.ErrNoKey, Code: codes.NotFound},
	}
	return &Keyring{ring: ring, signing: signing, failures: append(own, failures...)}
}

// Register adds the service to a gRPC server.
func (k *Keyring) Register(r grpc.ServiceRegistrar) { clusterv1.RegisterKeyringServer(r, k) }

// List lists the keys, and what is sealed with each.
func (k *Keyring) List(ctx context.Context, r *clusterv1.ListKeysRequest) (*clusterv1.ListKeysResponse, error) {
	if r.Tokens {
		return k.listSigning(ctx)
	}
	keys, clear, err := k.ring.List(ctx)
	if err != nil {
		return nil, k.failures.status(err)
	}
	response := &clusterv1.ListKeysResponse{Clear: uint64(clear)}
	for _, key := range keys {
		response.Keys = append(response.Keys, &clusterv1.SealingKey{
			Id: key.ID, Created: key.Created.Unix(), Primary: key.Primary, Values: uint64(key.Values),
		})
	}
	return response, nil
}

func (k *Keyring) listSigning(ctx context.Context) (*clusterv1.ListKeysResponse, error) {
	keys, err := k.signing.List(ctx)
	if err != nil {
		return nil, k.failures.status(err)
	}
	response := &clusterv1.ListKeysResponse{}
	for _, key := range keys {
		shown := &clusterv1.SealingKey{Id: key.ID, Primary: key.Signs}
		if !key.Created.IsZero() {
			shown.Created = key.Created.Unix()
		}
		if !key.From.IsZero() {
			shown.From = key.From.Unix()
		}
		response.Keys = append(response.Keys, shown)
	}
	return response, nil
}

// Rotate makes a new key and rewrites what is sealed with others.
func (k *Keyring) Rotate(r *clusterv1.RotateKeysRequest, stream grpc.ServerStreamingServer[clusterv1.RewriteProgress]) error {
	if r.Tokens {
		id, err := k.signing.Rotate(stream.Context())
		if err != nil {
			return k.failures.status(err)
		}
		return stream.Send(&clusterv1.RewriteProgress{Id: id})
	}
	if _, err := k.ring.Rotate(stream.Context()); err != nil {
		return k.failures.status(err)
	}
	return k.rewrite(stream)
}

// Rewrite goes on where a Rotate was broken off.
func (k *Keyring) Rewrite(_ *clusterv1.RewriteRequest, stream grpc.ServerStreamingServer[clusterv1.RewriteProgress]) error {
	return k.rewrite(stream)
}

func (k *Keyring) rewrite(stream grpc.ServerStreamingServer[clusterv1.RewriteProgress]) error {
	id, err := k.ring.Primary()
	if err != nil {
		return k.failures.status(err)
	}
	// The first message says that the key is there, even if nothing is to do.
	if err := stream.Send(&clusterv1.RewriteProgress{Id: id}); err != nil {
		return err
	}
	var mu sync.Mutex // a stream takes one message at a time
	var broken error
	err = k.ring.Rewrite(stream.Context(), func(done, total int) {
		mu.Lock()
		defer mu.Unlock()
		broken = errors.Join(broken, stream.Send(&clusterv1.RewriteProgress{Id: id, Done: uint64(done), Total: uint64(total)}))
	})
	switch {
	case err != nil:
		return k.failures.status(err)
	case broken != nil:
		return broken
	}
	return nil
}

// Remove takes a key away that nothing is sealed with.
func (k *Keyring) Remove(ctx context.Context, r *clusterv1.RemoveKeyRequest) (*clusterv1.RemoveKeyResponse, error) {
	if r.Id == "" {
		return nil, status.Error(codes.InvalidArgument, "id: which key is to be removed?")
	}
	remove := k.ring.Remove
	if r.Tokens {
		remove = k.signing.Remove
	}
	if err := remove(ctx, r.Id); err != nil {
		return nil, k.failures.status(err)
	}
	return &clusterv1.RemoveKeyResponse{}, nil
}
