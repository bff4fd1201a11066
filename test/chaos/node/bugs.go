package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// processKey is the trailer that every answer has: that there is one tells an
// answer from a connection that broke, and what it says one process of a node
// from the next.
const processKey = "chaos-process"

// sign adds the trailer.
func sign(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	response, err := handle(ctx, request)
	_ = grpc.SetTrailer(ctx, metadata.Pairs(processKey, strconv.Itoa(os.Getpid())))
	return response, err
}

// signStream adds it to streams, as a header and a trailer.
func signStream(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	signature := metadata.Pairs(processKey, strconv.Itoa(os.Getpid()))
	_ = stream.SetHeader(signature)
	stream.SetTrailer(signature)
	return handle(server, stream)
}

// bugs are what can be planted. Each breaks one promise of the KV service, and
// leaves the others alone as far as it can.
var bugs = map[string]grpc.UnaryServerInterceptor{
	"": func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		return handle(ctx, request)
	},

	// Reads do not ask whether the replica is current.
	"stale-reads": func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		switch r := request.(type) {
		case *clusterv1.KVGetRequest:
			r.Local = true
		case *clusterv1.KVListRequest:
			r.Local = true
		}
		return handle(ctx, request)
	},

	// Writes are acknowledged at once, whatever becomes of them.
	"early-ack": func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if _, ok := request.(*clusterv1.KVCommitRequest); !ok {
			return handle(ctx, request)
		}
		go func() { _, _ = handle(context.WithoutCancel(ctx), request) }()
		return &clusterv1.KVCommitResponse{}, nil
	},
}

func bugNames() []string {
	var names []string
	for name := range bugs {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func plant(name string) (grpc.UnaryServerInterceptor, error) {
	bug, ok := bugs[name]
	if !ok {
		return nil, fmt.Errorf("bug: %q is none of %q", name, bugNames())
	}
	return bug, nil
}
