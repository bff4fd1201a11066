package pki

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A host may fail to join this often before it has to wait. Tokens cannot be
// guessed; this bounds the noise of a machine that keeps trying a wrong one.
const (
	failuresPerSecond = 1
	failuresBurst     = 10
	// Hosts remembered. When there are more all are forgotten: who has that many
	// addresses gets that many attempts.
	failingHostsMax = 4096
)

type failures struct {
	mu     sync.Mutex
	byHost map[string]*rate.Limiter
}

func newFailures() *failures { return &failures{byHost: map[string]*rate.Limiter{}} }

// allowed says whether a host may try, and if not how long it has to wait.
func (f *failures) allowed(host string) (time.Duration, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	limiter := f.byHost[host]
	if limiter == nil {
		return 0, true
	}
	if tokens := limiter.Tokens(); tokens < 1 {
		wait := time.Duration((1 - tokens) / failuresPerSecond * float64(time.Second))
		return wait.Round(100 * time.Millisecond), false
	}
	return 0, true
}

func (f *failures) add(host string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byHost[host] == nil {
		if len(f.byHost) >= failingHostsMax {
			clear(f.byHost)
		}
		f.byHost[host] = rate.NewLimiter(failuresPerSecond, failuresBurst)
	}
	f.byHost[host].Allow()
}
