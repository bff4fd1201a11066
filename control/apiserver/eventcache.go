package apiserver

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// Bounds of what is remembered of events already rendered. Watches of one kind
// tell the same events at about the same time; whoever comes later, because its
// client is slow or resumes from the past, renders for itself.
const (
	eventCacheEntries = 2048
	eventCacheBytes   = 16 << 20
)

// eventForm is what, beside the event, decides how it is rendered.
type eventForm struct {
	// kind is in it because a kind that users defined may be served in several
	// versions, and may change.
	kind    *resource.Kind
	out     output
	include metav1.IncludeObjectPolicy
	columns bool
	// second is when a table's row is rendered: it says how old the object is.
	second int64
}

// eventKey names one rendering. The revision says which change it is; the type
// differs when selectors turn an update into an add or a delete.
type eventKey struct {
	key      string
	revision uint64
	kind     watch.EventType
	form     eventForm
}

// eventCache renders each event once in each form for all watches.
type eventCache struct {
	mu      sync.Mutex
	entries map[eventKey]*rendered
	order   []eventKey // a ring, oldest at next once it is full
	next    int
	bytes   int
}

type rendered struct {
	once sync.Once
	body []byte
	err  error
	size int // of body, once it is counted
}

func newEventCache() *eventCache {
	return &eventCache{entries: map[eventKey]*rendered{}}
}

// render returns what make would. Nobody may change it.
func (c *eventCache) render(event store.Event, form eventForm, make func() ([]byte, error)) ([]byte, error) {
	key := eventKey{event.Item.Key, event.Item.Revision, event.Type, form}
	entry := c.entry(key)
	entry.once.Do(func() {
		entry.body, entry.err = make()
		c.grown(key, entry, len(entry.body))
	})
	return entry.body, entry.err
}

func (c *eventCache) entry(key eventKey) *rendered {
	c.mu.Lock()
	defer c.mu.Unlock()
	if entry := c.entries[key]; entry != nil {
		return entry
	}
	entry := &rendered{}
	if len(c.order) < eventCacheEntries {
		c.order = append(c.order, key)
	} else {
		c.forget(c.order[c.next])
		c.order[c.next] = key
		c.next = (c.next + 1) % eventCacheEntries
	}
	c.entries[key] = entry
	return entry
}

func (c *eventCache) forget(key eventKey) {
	if entry := c.entries[key]; entry != nil {
		c.bytes -= entry.size
		delete(c.entries, key)
	}
}

// grown counts a body that was rendered, and empties the cache when it holds too
// much: large objects are rare, and what is dropped is rendered again.
func (c *eventCache) grown(key eventKey, entry *rendered, size int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[key] != entry {
		return // forgotten meanwhile
	}
	entry.size = size
	c.bytes += size
	if c.bytes > eventCacheBytes {
		c.entries, c.order, c.next, c.bytes = map[eventKey]*rendered{}, nil, 0, 0
	}
}
