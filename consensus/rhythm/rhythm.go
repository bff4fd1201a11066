// Package rhythm has the periodic work of one process fall together. An idle
// process costs how often it is woken, and each wake-up the start of a thread or
// two; what comes round every 100 and every 50 ms is one matter then.
package rhythm

import "time"

var began = time.Now()

// After returns a channel on which the time is sent at the next moment that is a
// whole number of periods after the process began: within one period. A loop that
// is late by whole periods leaves them out, as with a ticker.
func After(period time.Duration) <-chan time.Time {
	into := time.Since(began) % period
	if into < 0 { // in a test whose clock is behind
		into += period
	}
	return time.After(period - into)
}
