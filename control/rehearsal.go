package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/admission"
	"github.com/musterhq/muster/control/apiserver"
	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/controller/customresource"
	"github.com/musterhq/muster/control/controller/resourcequota"
	"github.com/musterhq/muster/control/controller/serviceaccount"
	"github.com/musterhq/muster/control/custom"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/fsm"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// rehearsal is the API on a copy of the cluster. Requests go through the same admission
// and rules as real ones, and dry runs are stored: objects of one plan may need each
// other. Nothing gets out but calls to webhooks, which are told of a dry run.
//
// Of the controllers there are those without which admission would refuse what comes
// next: a new namespace has its service account, a new definition is served, a new quota
// is counted. They act between two requests, so that nobody waits for them.
type rehearsal struct {
	api         *apiserver.Server
	store       *store.Store
	registry    *resource.Registry
	definitions *customresource.Controller
	quotas      *resourcequota.Controller
	seen        uint64 // the revision up to which controllers have acted
}

// forkHistory is how many changes of a copy may be watched: by its own parts alone.
const forkHistory = 10_000

// forkBytes bounds the commands that a copy takes: what they store stays in memory as long
// as the copy.
const forkBytes = 64 << 20

// errForkFull is for the request that finds no room; what is read goes on.
var errForkFull = fmt.Errorf("a rehearsal stores no more than %d bytes", forkBytes)

// Rehearse gives serve the API of a copy of the cluster, and the revision that it is of.
// The copy ends when serve returns.
func (s scheduling) Rehearse(ctx context.Context, serve func(api http.Handler, revision uint64) error) error {
	if _, err := s.leading(); err != nil {
		return err
	}
	if err := s.server.store.ReadBarrier(ctx); err != nil {
		return err
	}
	return s.server.rehearse(ctx, serve)
}

func (s *Server) rehearse(ctx context.Context, serve func(api http.Handler, revision uint64) error) error {
	root, err := sealingRoot(s.authority.SealingSecret())
	if err != nil {
		return err
	}
	machine := s.machine.Fork(fsm.Config{HistoryEvents: forkHistory})
	r := &rehearsal{seen: machine.Revision()}
	r.store = store.New(&forkLog{machine: machine, left: forkBytes}, machine).Sealing(root)
	authorizer := auth.NewAuthorizer(r.store)
	r.registry = resource.New(r.store, admission.New(r.store, admission.Settings{
		NotReadyToleration: s.cfg.NotReadyToleration, UnreachableToleration: s.cfg.UnreachableToleration,
		Services: services{s}, Rights: authorizer, Rehearsing: true,
		Kinds: func() []*resource.Kind { return r.registry.Catalog().Served() },
	})).Rehearsing()
	log := slog.New(slog.DiscardHandler)
	refused := failures
	refused.NoSpace = append(slices.Clone(refused.NoSpace), errForkFull)
	follower, err := custom.NewFollower(custom.Config{Store: r.store, Registry: r.registry, Dial: s.reach.Service, Logger: log})
	if err != nil {
		return err
	}
	r.definitions = customresource.New(customresource.Config{Registry: r.registry, Logger: log})
	r.quotas = resourcequota.New(resourcequota.Config{Registry: r.registry, Logger: log})
	r.api, err = apiserver.New(apiserver.Config{
		Registry: r.registry, Store: r.store, Authorizer: authorizer, Streams: noStreams{}, Failures: refused, Audit: s.audit,
		Version: kubernetesVersion(s.cfg.Version), Logger: log,
	})
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error { return follower.Run(ctx) })
	parts.Go(func() error { return authorizer.Run(ctx) })
	parts.Go(func() error {
		defer end()
		for _, synced := range append(authorizer.Synced(), follower.Synced()) {
			select {
			case <-synced:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return serve(r, r.seen)
	})
	return parts.Wait()
}

// ServeHTTP answers one request after the other.
func (r *rehearsal) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	r.api.ServeHTTP(w, request)
	if err := r.act(request.Context()); err != nil {
		// What comes next is refused for want of what was not done, and says so.
		r.seen = 0
	}
}

// act does what controllers would do about what has changed.
func (r *rehearsal) act(ctx context.Context) error {
	since, now := r.seen, r.store.Revision()
	if now == since {
		return nil
	}
	changed := func(spec *store.Spec) bool { return r.store.Table(spec).LastChange(now) > since }
	if changed(store.Namespaces) {
		if err := each(ctx, r.store, store.Namespaces, func(ns *corev1.Namespace) error {
			return serviceaccount.Ensure(ctx, r.registry, ns.Name)
		}); err != nil {
			return err
		}
	}
	if changed(store.CustomResourceDefinitions) {
		if err := r.definitions.Judge(ctx); err != nil {
			return err
		}
		if err := r.registry.Current(ctx); err != nil {
			return err
		}
	}
	if changed(store.ResourceQuotas) {
		if err := each(ctx, r.store, store.ResourceQuotas, func(q *corev1.ResourceQuota) error {
			if len(q.Status.Hard) > 0 {
				return nil // charges have been counted
			}
			return r.quotas.Count(ctx, q.Namespace, q.Name)
		}); err != nil {
			return err
		}
	}
	r.seen = r.store.Revision()
	return nil
}

func each[T store.Object](ctx context.Context, s *store.Store, spec *store.Spec, do func(T) error) error {
	objects, _, err := store.Of[T](s, spec).List(ctx, store.ListOptions{})
	for _, obj := range objects {
		err = errors.Join(err, do(obj))
	}
	return err
}

// forkLog is the log of a machine that is nobody else's.
type forkLog struct {
	mu      sync.Mutex
	machine *fsm.Machine
	left    int // of forkBytes
}

func (l *forkLog) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(cmd) > l.left {
		return nil, errForkFull
	}
	l.left -= len(cmd)
	return l.machine.ApplyOne(cmd)
}

func (l *forkLog) ReadBarrier(ctx context.Context) error { return ctx.Err() }

// noStreams: nothing runs in a copy.
type noStreams struct{}

var errRehearsal = errors.New("this is a rehearsal")

func (noStreams) Open(context.Context, string, *agentv1.OpenStream) (apiserver.Stream, error) {
	return nil, errRehearsal
}
