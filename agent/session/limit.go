package session

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"
)

// One object may have eventBurst events, and then one each eventRefill, as
// kubelet limits them: a probe that fails every second must not be a write every
// second. Objects beyond limitedMost are forgotten, those unheard of first.
const (
	eventBurst  = 25
	eventRefill = 5 * time.Minute
	limitedMost = 4096
)

// eventLimit bounds the events about each object.
type eventLimit struct {
	mu       sync.Mutex
	byObject *lru.Cache // types.UID → *rate.Limiter
}

func newEventLimit() *eventLimit { return &eventLimit{byObject: lru.New(limitedMost)} }

// allow says whether one more event about an object may be sent at this time.
func (l *eventLimit) allow(object types.UID, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter, ok := l.byObject.Get(object)
	if !ok {
		limiter = rate.NewLimiter(rate.Every(eventRefill), eventBurst)
		l.byObject.Add(object, limiter)
	}
	return limiter.(*rate.Limiter).AllowN(now, 1)
}
