package workloads

import (
	"context"
	"slices"
	"sync"

	"github.com/musterhq/muster/control/store"
)

// kinds are those whose history is kept.
var kinds = []*store.Spec{
	store.Pods, store.Deployments, store.ReplicaSets, store.StatefulSets, store.DaemonSets, store.Jobs, store.ControllerRevisions,
}

// Event is one change of one object.
type Event struct {
	Revision uint64
	Spec     *store.Spec
	Key      string       // of the table
	Object   store.Object // nil: it is gone
}

// history is every change there ever was, from revision 0 on.
type history struct {
	store   *store.Store
	watches map[*store.Spec]*store.Watch

	mu     sync.Mutex
	events []Event
	failed error
}

func follow(s *store.Store) (*history, error) {
	h := &history{store: s, watches: map[*store.Spec]*store.Watch{}}
	for _, spec := range kinds {
		watch, err := s.Table(spec).Watch(context.Background(), store.WatchOptions{})
		if err != nil {
			return nil, err
		}
		h.watches[spec] = watch
	}
	return h, nil
}

func (h *history) run(ctx context.Context) {
	var group sync.WaitGroup
	for spec, watch := range h.watches {
		group.Go(func() {
			for {
				changes, _, err := watch.Next(ctx)
				if err != nil {
					if ctx.Err() == nil {
						h.fail(err)
					}
					return
				}
				for _, change := range changes {
					e := Event{Revision: change.Item.Revision, Spec: spec, Key: change.Item.Key}
					if change.Type != "DELETED" {
						if e.Object, err = store.Decode(spec, change.Item); err != nil {
							h.fail(err)
							return
						}
					}
					h.mu.Lock()
					h.events = append(h.events, e)
					h.mu.Unlock()
				}
			}
		})
	}
	group.Wait()
}

func (h *history) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed = err
}

// sorted is the history in the order of revisions. A history with a gap proves
// nothing.
func (h *history) sorted() []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failed != nil {
		panic(h.failed)
	}
	slices.SortFunc(h.events, func(a, b Event) int { return int(a.Revision) - int(b.Revision) })
	return h.events
}
