package operator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/fsm/kv"
	"github.com/musterhq/muster/fsm/watch"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

const (
	listMax = 1000
	// messageBytesMax is how many bytes of items one answer or one message of a
	// watch takes before it ends with the next item. An item is smaller than a
	// command of the log, so that a message stays far below transport.MessageMax.
	messageBytesMax = 4 << 20
	// reachMax is how long a list waits for this replica to reach its revision.
	reachMax = 5 * time.Second
)

// KV is cluster.v1.KV on one control node. Any node serves it: writes go
// through the log, reads behind a barrier unless the caller wants this replica.
type KV struct {
	clusterv1.UnimplementedKVServer
	store    *store.Store
	failures Failures
}

// NewKV makes the service. failures say what the store's log means by its errors.
func NewKV(s *store.Store, failures Failures) *KV { return &KV{store: s, failures: failures} }

// Register adds the service to a gRPC server.
func (k *KV) Register(r grpc.ServiceRegistrar) { clusterv1.RegisterKVServer(r, k) }

// Get reads one key. That there is none is an answer.
func (k *KV) Get(ctx context.Context, r *clusterv1.KVGetRequest) (*clusterv1.KVGetResponse, error) {
	return k.get(r, func(local bool) error { return k.current(ctx, local) })
}

func (k *KV) get(r *clusterv1.KVGetRequest, current func(local bool) error) (*clusterv1.KVGetResponse, error) {
	if err := checkKey(r.Key); err != nil {
		return nil, err
	}
	if err := current(r.Local); err != nil {
		return nil, err
	}
	item, revision := k.store.Raw().Get(string(r.Key))
	response := &clusterv1.KVGetResponse{Revision: revision}
	if item != nil {
		response.Item = kvItem(item, false)
	}
	return response, nil
}

// List reads a page of keys.
func (k *KV) List(ctx context.Context, r *clusterv1.KVListRequest) (*clusterv1.KVListResponse, error) {
	return k.list(ctx, r, func(local bool) error { return k.current(ctx, local) })
}

func (k *KV) list(ctx context.Context, r *clusterv1.KVListRequest, current func(local bool) error) (*clusterv1.KVListResponse, error) {
	if r.Limit > listMax {
		return nil, status.Errorf(codes.InvalidArgument, "limit %d: at most %d", r.Limit, listMax)
	}
	if err := current(r.Local); err != nil {
		return nil, err
	}
	if r.Revision == 0 {
		return list(k.store.View(), r), nil
	}
	view, err := k.viewAt(ctx, string(r.Prefix), r.Revision)
	if err != nil {
		return nil, err
	}
	return list(view, r), nil
}

// viewAt waits for this replica to reach a revision, for a while.
func (k *KV) viewAt(ctx context.Context, prefix string, revision uint64) (*kv.View, error) {
	waiting, cancel := context.WithTimeout(ctx, reachMax)
	defer cancel()
	view, err := k.store.Raw().ViewAt(waiting, prefix, revision)
	switch {
	case err == nil:
		return view, nil
	case errors.Is(err, watch.ErrCompacted):
		return nil, status.Errorf(codes.OutOfRange, "the state at revision %d is not kept any more: list anew", revision)
	case ctx.Err() == nil && waiting.Err() != nil:
		return nil, status.Errorf(codes.Unavailable, "this control node has not reached revision %d: it is at %d", revision, k.store.Revision())
	}
	return nil, k.failures.status(err)
}

func list(view *kv.View, r *clusterv1.KVListRequest) *clusterv1.KVListResponse {
	response := &clusterv1.KVListResponse{Revision: view.Revision()}
	limit, start, bytes := int(r.Limit), "", 0
	if limit == 0 {
		limit = listMax
	}
	if len(r.After) > 0 {
		start = string(r.After) + "\x00" // the least key above it
	}
	for item := range view.Range(string(r.Prefix), start) {
		if len(response.Items) == limit || bytes > messageBytesMax {
			response.More = true
			break
		}
		bytes += len(item.Key)
		if !r.KeysOnly {
			bytes += len(item.Value)
		}
		response.Items = append(response.Items, kvItem(item, r.KeysOnly))
	}
	return response
}

// Commit is one guarded transaction.
func (k *KV) Commit(ctx context.Context, r *clusterv1.KVCommitRequest) (*clusterv1.KVCommitResponse, error) {
	txn, err := transaction(r)
	if err != nil {
		return nil, err
	}
	result, err := k.store.Raw().Commit(ctx, txn)
	if err != nil {
		return nil, k.failures.status(err)
	}
	if !result.Applied {
		return nil, status.Error(codes.Aborted, refused(txn, result))
	}
	return &clusterv1.KVCommitResponse{Revision: result.Revision, OpRevisions: result.OpRevisions}, nil
}

// transaction checks all that the log would take, but should not.
func transaction(r *clusterv1.KVCommitRequest) (*storagev1.Txn, error) {
	if len(r.Guards)+len(r.Ops) == 0 {
		return nil, status.Error(codes.InvalidArgument, "a transaction without guards and operations")
	}
	txn := &storagev1.Txn{}
	for _, g := range r.Guards {
		if err := checkKey(g.GetKey()); err != nil {
			return nil, err
		}
		if g.Exists && g.Revision != 0 {
			return nil, status.Errorf(codes.InvalidArgument, "guard of %q: either a revision or any", g.Key)
		}
		txn.Guards = append(txn.Guards, &storagev1.Guard{Key: g.Key, Revision: g.Revision, Exists: g.Exists})
	}
	for _, o := range r.Ops {
		if err := checkKey(o.GetKey()); err != nil {
			return nil, err
		}
		op := &storagev1.Op{Op: &storagev1.Op_Put{Put: &storagev1.Put{Key: o.Key, Value: o.Value}}}
		if o.Delete {
			if len(o.Value) > 0 {
				return nil, status.Errorf(codes.InvalidArgument, "delete of %q: it has no value", o.Key)
			}
			op.Op = &storagev1.Op_Delete{Delete: &storagev1.Delete{Key: o.Key}}
		}
		txn.Ops = append(txn.Ops, op)
	}
	return txn, nil
}

// refused says which guard did not hold, and why.
func refused(txn *storagev1.Txn, result *storagev1.Result) string {
	guard := txn.Guards[result.FailedGuard]
	switch found := result.FoundRevision; {
	case found == 0:
		return fmt.Sprintf("%q does not exist", guard.Key)
	case guard.Revision == 0:
		return fmt.Sprintf("%q exists, at revision %d", guard.Key, found)
	default:
		return fmt.Sprintf("%q is at revision %d, not %d", guard.Key, found, guard.Revision)
	}
}

func (k *KV) current(ctx context.Context, local bool) error {
	if local {
		return nil
	}
	if err := k.store.ReadBarrier(ctx); err != nil {
		return k.failures.status(err)
	}
	return nil
}

func checkKey(key []byte) error {
	if len(key) == 0 {
		return status.Error(codes.InvalidArgument, "a key is empty")
	}
	return nil
}

func kvItem(item *kv.Item, keyOnly bool) *clusterv1.KVItem {
	out := &clusterv1.KVItem{Key: []byte(item.Key), CreateRevision: item.CreateRevision, Revision: item.Revision}
	if !keyOnly {
		out.Value = item.Value
	}
	return out
}
