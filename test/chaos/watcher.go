package chaos

import (
	"context"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
	"github.com/musterhq/muster/test/chaos/check"
)

// historyMin is fewer changes than any node keeps of the past (package fsm).
const historyMin = 5000

// watcher watches a prefix, on one node or on one after the other, resuming
// where it was.
type watcher struct {
	run   *run
	rng   *rand.Rand
	hops  bool
	at    int
	conns []*grpc.ClientConn
	watch *check.Watch
	// expired is at how many nodes in a row the past was forgotten.
	expired int
}

func (r *run) newWatcher(name, prefix string, at int, hops bool, after uint64) (*watcher, error) {
	w := &watcher{
		run: r, rng: rand.New(rand.NewPCG(r.Seed, uint64(2000+len(r.watchers)))),
		at: at, hops: hops, watch: r.log.Watch(name, prefix, after),
	}
	for _, n := range r.cluster.nodes {
		conn, err := r.cluster.dial(n)
		if err != nil {
			return nil, err
		}
		w.conns = append(w.conns, conn)
	}
	return w, nil
}

// Run watches until ctx ends, or done says that the watch has gone far enough.
func (w *watcher) Run(ctx context.Context) {
	defer func() {
		for _, conn := range w.conns {
			_ = conn.Close()
		}
	}()
	for ctx.Err() == nil && !w.run.reached(w.watch.After()) {
		stay := time.Hour
		if w.hops {
			stay = time.Duration(500+w.rng.IntN(4500)) * time.Millisecond
		}
		err := w.stream(ctx, stay)
		switch {
		case status.Code(err) == codes.OutOfRange:
			w.forgotten(ctx)
		default:
			w.expired = 0
		}
		if w.hops {
			w.at = w.rng.IntN(len(w.conns))
		}
		_ = pause(ctx, 50*time.Millisecond)
	}
}

// stream watches on one node for a while.
func (w *watcher) stream(ctx context.Context, stay time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, stay)
	defer cancel()
	node := w.run.cluster.nodes[w.at]
	stream, err := clusterv1.NewKVClient(w.conns[w.at]).Watch(ctx, &clusterv1.KVWatchRequest{Prefix: []byte(w.watch.Prefix()), After: w.watch.After()})
	if err != nil {
		return err
	}
	process := ""
	if header, err := stream.Header(); err == nil && len(header.Get(processKey)) > 0 {
		process = node.name + "/" + header.Get(processKey)[0]
	}
	for {
		message, err := stream.Recv()
		if err != nil {
			if status.Code(err) == codes.OutOfRange {
				if process == "" && len(stream.Trailer().Get(processKey)) > 0 {
					process = node.name + "/" + stream.Trailer().Get(processKey)[0]
				}
				w.run.pasts.forgot(w, node, process, w.watch.After())
			}
			return err
		}
		var events []check.Event
		for _, e := range message.Events {
			value := string(e.Value)
			if e.Delete {
				value = ""
			}
			events = append(events, check.Event{Revision: e.Revision, Key: string(e.Key), Value: value})
		}
		if len(events) > 0 {
			w.run.pasts.knew(process, events[0].Revision)
		}
		w.watch.Message(node.name, events, message.Revision)
		w.expired = 0
		if w.run.reached(w.watch.After()) {
			return nil
		}
	}
}

// forgotten goes on at another node, which may remember; when none does, the
// watch begins anew.
func (w *watcher) forgotten(ctx context.Context) {
	w.expired++
	if w.expired <= 3*len(w.conns) {
		w.at = (w.at + 1) % len(w.conns)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	response, err := clusterv1.NewKVClient(w.conns[w.at]).Get(ctx, &clusterv1.KVGetRequest{Key: []byte(prefix)})
	if err == nil {
		w.run.Log.Warn("a watch begins anew, as no node remembers", "after", w.watch.After(), "at", response.Revision)
		w.watch.Skip(response.Revision)
		w.expired = 0
	}
}

// pasts is how far back each process of a node is known to remember.
type pasts struct {
	mu    sync.Mutex
	since map[string]uint64 // the oldest change that a process has told
}

func (p *pasts) knew(process string, revision uint64) {
	if process == "" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if since, ok := p.since[process]; !ok || revision < since {
		p.since[process] = revision
	}
}

// restored says whether a node's log mentions that its state was replaced. The
// node says so a moment after it has told those who watch.
func (w *watcher) restored(n *node) bool {
	for range 20 {
		text, err := os.ReadFile(n.logFile)
		if err != nil || strings.Contains(string(text[max(0, len(text)-1<<20):]), "restored") {
			return true
		}
		time.Sleep(100 * time.Millisecond)
	}
	return false
}

// forgot judges whether a process may have forgotten what came after a
// revision: not if it has told it before, has not taken over another's state
// since, and not much has changed.
func (p *pasts) forgot(w *watcher, node *node, process string, after uint64) {
	p.mu.Lock()
	since, known := p.since[process]
	p.mu.Unlock()
	if !known || since > after+1 || w.run.log.Newest() > since+historyMin {
		return
	}
	if w.restored(node) {
		return
	}
	w.run.found(check.Watches, "%s has forgotten what came after %d, though it told %d before and only %d changes are known", process, after, since, w.run.log.Newest())
}
