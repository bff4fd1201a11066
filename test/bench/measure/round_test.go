package measure

import (
	"testing"
	"time"

	"github.com/musterhq/muster/test/bench/process"
)

func TestMedianRoundTakesEachFigureOnItsOwn(t *testing.T) {
	got := MedianRound([]Round{
		{Count: 10, PerSecond: 100, P50: 3, P99: 30},
		{Count: 20, PerSecond: 300, P50: 1, P99: 10, Errors: 2, FirstError: "late"},
		{Count: 30, PerSecond: 200, P50: 2, P99: 50, LeaderChanged: true},
	})
	want := Round{Count: 60, PerSecond: 200, P50: 2, P99: 30, Errors: 2, FirstError: "late", LeaderChanged: true}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestCostsAreForEachOperation(t *testing.T) {
	var l Latencies
	for range 100 {
		l.Record(2 * time.Millisecond)
	}
	r := Round{Seconds: 4, servers: process.Usage{CPU: 50 * time.Millisecond, Written: 100 << 12}, client: 10 * time.Millisecond}
	r.Measured(&l)
	if r.PerSecond != 25 || r.ServerMicros != 500 || r.ClientMicros != 100 || r.WrittenKiB != 4 || r.P50 != 2 {
		t.Errorf("got %+v, want 25/s, 500 and 100 µs, 4 KiB, 2 ms", r)
	}
}
