package rhythm

import (
	"testing"
	"testing/synctest"
	"time"
)

// Whoever waits for the same period, or for one that divides it, is woken at the same moment.
func TestPeriodsFallTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(7 * time.Millisecond)
		start := time.Now()
		long := <-After(100 * time.Millisecond)
		if waited := long.Sub(start); waited > 100*time.Millisecond {
			t.Errorf("waited %s, want at most one period", waited)
		}
		next := After(100 * time.Millisecond)
		time.Sleep(30 * time.Millisecond)
		if short := <-After(50 * time.Millisecond); short.Sub(long) != 50*time.Millisecond {
			t.Errorf("%s after the long period, want 50ms", short.Sub(long))
		}
		time.Sleep(time.Millisecond)
		if short, long := <-After(50*time.Millisecond), <-next; !short.Equal(long) {
			t.Errorf("%s apart, want together", short.Sub(long))
		}
	})
}
