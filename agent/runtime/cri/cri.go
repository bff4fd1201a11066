// Package cri runs pods on containerd through its CRI service, and keeps a
// containerd of its own running unless an installed one is given. The little
// that CRI lacks, importing image archives, goes through containerd's client.
package cri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/musterhq/muster/agent/runtime"
)

// Config says which containerd to use and where it keeps what.
type Config struct {
	Dir string // root, state, socket and log of an own containerd
	// Endpoint is the socket of an installed containerd, which is then left
	// alone. The fields down to SandboxImage are for an own one.
	Endpoint     string
	Bin          string // directory with containerd, containerd-shim-runc-v2 and runc
	CNIBin       string // directory with CNI plugins
	CNIConf      string // directory with the network's configuration
	CertsDir     string // hosts.toml files of registries
	SandboxImage string
	// EndWithRun ends an own containerd when Run does. Otherwise it goes on, for
	// the next Run to adopt, so that pods survive the agent.
	EndWithRun bool

	// CgroupParent is the cgroup pods are made in, as "/muster/n1".
	CgroupParent string
	Logger       *slog.Logger
}

// Runtime is containerd. It implements runtime.Runtime.
type Runtime struct {
	cfg       Config
	socket    string
	conn      *grpc.ClientConn
	runtime   criv1.RuntimeServiceClient
	images    criv1.ImageServiceClient
	imported  *importRecord
	leftovers leftovers
	changes   *runtime.Changes
	log       *slog.Logger
}

var _ runtime.Runtime = (*Runtime)(nil)

// New prepares cfg.Dir; nothing is started before Run.
func New(cfg Config) (*Runtime, error) {
	r := &Runtime{cfg: cfg, changes: runtime.NewChanges(), log: cfg.Logger, socket: cfg.Endpoint}
	if cfg.Endpoint == "" {
		if cfg.Bin == "" || cfg.CNIBin == "" {
			return nil, errors.New("containerd and CNI plugins are needed: set the runtime endpoint of an installed containerd, or use a build that carries them")
		}
		r.socket = socketPath(cfg.Dir)
	}
	if err := os.MkdirAll(cfg.Dir, 0o711); err != nil {
		return nil, fmt.Errorf("prepare containerd's directory: %w", err)
	}
	conn, err := grpc.NewClient("unix://"+r.socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd at %s: %w", r.socket, err)
	}
	r.conn = conn
	r.runtime = criv1.NewRuntimeServiceClient(conn)
	r.images = criv1.NewImageServiceClient(conn)
	r.imported = loadImportRecord(filepath.Join(cfg.Dir, "imported.json"))
	return r, nil
}

// Run keeps containerd running, unless it is an installed one, and listens to
// what it says. It can be called once.
func (r *Runtime) Run(ctx context.Context) error {
	defer r.conn.Close()
	group, ctx := errgroup.WithContext(ctx)
	if r.cfg.Endpoint == "" {
		group.Go(func() error { return r.supervise(ctx) })
	}
	group.Go(func() error { return r.listen(ctx) })
	return group.Wait()
}

func (r *Runtime) Info(ctx context.Context) (runtime.Info, error) {
	version, err := r.runtime.Version(ctx, &criv1.VersionRequest{})
	if err != nil {
		return runtime.Info{}, fault("ask for the runtime's version", err)
	}
	now, err := r.runtime.Status(ctx, &criv1.StatusRequest{})
	if err != nil {
		return runtime.Info{}, fault("ask for the runtime's status", err)
	}
	info := runtime.Info{Name: version.RuntimeName, Version: version.RuntimeVersion}
	for _, c := range now.GetStatus().GetConditions() {
		switch c.Type {
		case criv1.RuntimeReady:
			info.Ready = c.Status
		case criv1.NetworkReady:
			info.NetworkReady = c.Status
		default:
			continue
		}
		if !c.Status && info.Message == "" {
			info.Message = c.Message
		}
	}
	return info, nil
}

func (r *Runtime) Changed(ctx context.Context) ([]string, error) { return r.changes.Wait(ctx) }

// listen passes on containerd's events. What happens while it is not connected
// is made up for by naming all pods afterwards.
func (r *Runtime) listen(ctx context.Context) error {
	for {
		events, err := r.runtime.GetContainerEvents(ctx, &criv1.GetEventsRequest{}, grpc.WaitForReady(true))
		if err == nil {
			r.changes.Add("")
			for {
				event, err := events.Recv()
				if err != nil {
					break
				}
				r.changes.Add(event.GetPodSandboxStatus().GetMetadata().GetUid())
			}
		}
		r.changes.Add("")
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// fault turns a gRPC error into one of package runtime's, in plain words.
func fault(doing string, err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("%s: %w", doing, err)
	}
	switch s.Code() {
	case codes.OK:
		return nil
	case codes.NotFound:
		return fmt.Errorf("%s: %w", doing, runtime.ErrNotFound)
	case codes.Unavailable:
		return fmt.Errorf("%s: %w: %s", doing, runtime.ErrUnavailable, s.Message())
	case codes.Canceled:
		return fmt.Errorf("%s: %w", doing, context.Canceled)
	case codes.DeadlineExceeded:
		return fmt.Errorf("%s: %w", doing, context.DeadlineExceeded)
	}
	return fmt.Errorf("%s: %s", doing, s.Message())
}
