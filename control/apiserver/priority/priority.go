// Package priority sorts requests by the cluster's FlowSchemas into its
// PriorityLevelConfigurations, and holds each level to its share of the requests
// that are worked on at once. How a level's requests wait for each other is
// package flow's business; what a refusal is answered with, the API server's.
package priority

import (
	"cmp"
	"context"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/apiserver/flow"
	"github.com/musterhq/muster/control/auth"
	"github.com/musterhq/muster/control/store"
)

// Config is what levels need to know.
type Config struct {
	Store *store.Store
	// Seats are how many requests all levels together may work on at a time; each
	// has its share. None lends what it does not use, as upstream's do.
	Seats int
	// Wait is the longest that a request waits for its turn.
	Wait time.Duration
	// Changed hears what seats each limited level has, by name, when that changes.
	Changed func(seats map[string]int)
	Logger  *slog.Logger
}

// Levels are all that there are, as of this replica. A change counts for the first
// request after it arrived here: nothing is kept in the background.
type Levels struct {
	cfg             Config
	schemas, levels *store.Table

	now      atomic.Pointer[state]
	building sync.Mutex
}

// state is what was made of the configuration at a revision.
type state struct {
	schemasChanged, levelsChanged uint64
	schemas                       []*schema // by precedence
	levels                        map[string]*level
}

type schema struct {
	*flowcontrolv1.FlowSchema
	level *level
}

type level struct {
	name  string
	uid   types.UID
	spec  flowcontrolv1.PriorityLevelConfigurationSpec
	seats int
	// queue is nil for a level whose requests never wait.
	queue *flow.Queue
}

// New has no levels until it is first asked.
func New(cfg Config) *Levels {
	return &Levels{cfg: cfg, schemas: cfg.Store.Table(store.FlowSchemas), levels: cfg.Store.Table(store.PriorityLevelConfigurations)}
}

// Class is where a request belongs. The zero Class is that of a request that no
// schema is for: it never waits.
type Class struct {
	SchemaUID, LevelUID types.UID
	// Level is the level's name.
	Level string
	queue *flow.Queue
	flow  string
}

// Exempt says that the level's requests never wait.
func (c *Class) Exempt() bool { return c.Level != "" && c.queue == nil }

func free() {}

// Enter returns when a request of this class may run; leave must be called when it
// has. The error is one of package flow's, or that of ctx.
func (c *Class) Enter(ctx context.Context) (leave func(), err error) {
	if c.queue == nil {
		return free, nil
	}
	return c.queue.Enter(ctx, c.flow, false)
}

// Of sorts a request.
func (l *Levels) Of(request *auth.Attributes) Class {
	for _, s := range l.current().schemas {
		if !matches(&s.Spec, request) {
			continue
		}
		class := Class{SchemaUID: s.UID, LevelUID: s.level.uid, Level: s.level.name, queue: s.level.queue}
		if class.queue == nil {
			return class
		}
		// Requests that are told apart take turns; the others are one flow.
		class.flow = s.Name
		if method := s.Spec.DistinguisherMethod; method != nil {
			switch method.Type {
			case flowcontrolv1.FlowDistinguisherMethodByUserType:
				class.flow += "/" + request.User.GetName()
			case flowcontrolv1.FlowDistinguisherMethodByNamespaceType:
				class.flow += "/" + request.Namespace
			}
		}
		return class
	}
	return Class{}
}

// current is the state of this replica.
func (l *Levels) current() *state {
	revision := l.cfg.Store.Revision()
	schemas, levels := l.schemas.LastChange(revision), l.levels.LastChange(revision)
	if now := l.now.Load(); now != nil && now.schemasChanged == schemas && now.levelsChanged == levels {
		return now
	}
	l.building.Lock()
	defer l.building.Unlock()
	before := l.now.Load()
	if before == nil {
		before = &state{}
	}
	if before.levels != nil && before.schemasChanged == schemas && before.levelsChanged == levels {
		return before
	}
	next, err := l.build(before)
	if err != nil {
		// What was known goes on; the next request tries again.
		l.cfg.Logger.Error("priority levels can't be read", "error", err)
		return before
	}
	next.schemasChanged, next.levelsChanged = schemas, levels
	l.now.Store(next)
	if l.cfg.Changed != nil {
		seats := map[string]int{}
		for name, level := range next.levels {
			if level.queue != nil {
				seats[name] = level.seats
			}
		}
		l.cfg.Changed(seats)
	}
	return next
}

func (l *Levels) build(before *state) (*state, error) {
	schemas, _, err := store.Of[*flowcontrolv1.FlowSchema](l.cfg.Store, store.FlowSchemas).List(context.Background(), store.ListOptions{})
	if err != nil {
		return nil, err
	}
	levels, _, err := store.Of[*flowcontrolv1.PriorityLevelConfiguration](l.cfg.Store, store.PriorityLevelConfigurations).List(context.Background(), store.ListOptions{})
	if err != nil {
		return nil, err
	}
	var shares int64
	for _, configured := range levels {
		shares += sharesOf(&configured.Spec)
	}
	next := &state{levels: map[string]*level{}}
	for _, configured := range levels {
		made := &level{name: configured.Name, uid: configured.UID, spec: configured.Spec}
		if limited := configured.Spec.Limited; configured.Spec.Type == flowcontrolv1.PriorityLevelEnablementLimited && limited != nil {
			made.seats = int(math.Ceil(float64(l.cfg.Seats) * float64(sharesOf(&configured.Spec)) / float64(max(shares, 1))))
			made.queue = l.queueOf(before.levels[configured.Name], made, limited.LimitResponse)
		}
		next.levels[configured.Name] = made
	}
	for _, s := range schemas {
		// One whose level is missing is for nothing.
		if level := next.levels[s.Spec.PriorityLevelConfiguration.Name]; level != nil {
			next.schemas = append(next.schemas, &schema{s, level})
		}
	}
	slices.SortFunc(next.schemas, func(a, b *schema) int {
		return cmp.Or(cmp.Compare(a.Spec.MatchingPrecedence, b.Spec.MatchingPrecedence), cmp.Compare(a.Name, b.Name))
	})
	return next, nil
}

// queueOf is a level's queue: that from before, with what runs and waits, unless
// the level is another one now. Then what runs in the old one ends there, and for
// as long both have their seats.
func (l *Levels) queueOf(before, now *level, response flowcontrolv1.LimitResponse) *flow.Queue {
	if before != nil && before.queue != nil && before.seats == now.seats && equal(before.spec.Limited.LimitResponse, response) {
		return before.queue
	}
	config := flow.Config{Seats: now.seats, Wait: l.cfg.Wait}
	if q := response.Queuing; response.Type == flowcontrolv1.LimitResponseTypeQueue && q != nil {
		config.Queues, config.Hand, config.Most = int(q.Queues), int(q.HandSize), int(q.QueueLengthLimit)
	}
	return flow.Of(config)
}

func equal(a, b flowcontrolv1.LimitResponse) bool {
	if a.Type != b.Type || (a.Queuing == nil) != (b.Queuing == nil) {
		return false
	}
	return a.Queuing == nil || *a.Queuing == *b.Queuing
}

func sharesOf(spec *flowcontrolv1.PriorityLevelConfigurationSpec) int64 {
	switch {
	case spec.Limited != nil && spec.Limited.NominalConcurrencyShares != nil:
		return int64(*spec.Limited.NominalConcurrencyShares)
	case spec.Exempt != nil && spec.Exempt.NominalConcurrencyShares != nil:
		return int64(*spec.Exempt.NominalConcurrencyShares)
	}
	return 0
}
