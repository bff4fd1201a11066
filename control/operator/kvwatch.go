package operator

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/fsm/watch"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// progressEvery is how often a watch says how far it is, if nothing else does.
const progressEvery = 2 * time.Second

// Watch tells what changes on this replica, which is what changes on all. Its
// first message says that it has begun. A client that reads slowly holds up
// nobody and costs one message; when it falls behind what is kept of the past,
// its watch ends with OUT_OF_RANGE.
func (k *KV) Watch(r *clusterv1.KVWatchRequest, stream grpc.ServerStreamingServer[clusterv1.KVWatchResponse]) error {
	watcher, err := k.store.Raw().Watch(string(r.Prefix), r.After)
	if err != nil {
		return k.watchEnd(err)
	}
	if err := stream.Send(&clusterv1.KVWatchResponse{Revision: watcher.Progress()}); err != nil {
		return err
	}
	for {
		waiting, cancel := context.WithTimeout(stream.Context(), progressEvery)
		events, reached, err := watcher.Next(waiting)
		late := waiting.Err() != nil
		cancel()
		if err != nil && (!late || stream.Context().Err() != nil) {
			return k.watchEnd(err)
		}
		if err := sendEvents(stream, events, reached); err != nil {
			return err
		}
	}
}

func (k *KV) watchEnd(err error) error {
	if errors.Is(err, watch.ErrCompacted) {
		return status.Error(codes.OutOfRange, "changes after that revision are forgotten already: list, and watch from the list's revision")
	}
	return k.failures.status(err)
}

// sendEvents sends as many messages as the events take, at least one; the last
// one says how far the watch is.
func sendEvents(stream grpc.ServerStreamingServer[clusterv1.KVWatchResponse], events []watch.Event, reached uint64) error {
	message, bytes := &clusterv1.KVWatchResponse{}, 0
	for _, event := range events {
		if bytes > messageBytesMax {
			// Events ascend, so nothing up to here is outstanding.
			message.Revision = message.Events[len(message.Events)-1].Revision
			if err := stream.Send(message); err != nil {
				return err
			}
			message, bytes = &clusterv1.KVWatchResponse{}, 0
		}
		out := &clusterv1.KVEvent{Key: []byte(event.Key()), Revision: event.Revision, Delete: event.Item == nil}
		if event.Item != nil {
			out.Value = event.Item.Value
		}
		bytes += len(out.Key) + len(out.Value)
		message.Events = append(message.Events, out)
	}
	message.Revision = reached
	return stream.Send(message)
}
