package measure

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBucketsCoverEveryValueOnce(t *testing.T) {
	for i := 1; i < bucketsTotal; i++ {
		end := bucketEnd(i - 1)
		if got := bucketOf(end); got != i-1 {
			t.Fatalf("the end of bucket %d, %d, falls into %d", i-1, end, got)
		}
		if got := bucketOf(end + 1); got != i {
			t.Fatalf("%d, after the end of bucket %d, falls into %d", end+1, i-1, got)
		}
	}
	if got := bucketOf(math.MaxUint64); got != bucketsTotal-1 {
		t.Errorf("the greatest value falls into bucket %d, want %d, the last", got, bucketsTotal-1)
	}
}

func TestQuantilesAreWithinOnePercent(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	var l, other Latencies
	for i := range 100_000 {
		took := time.Duration(math.Exp(random.NormFloat64()*2+14)) * time.Nanosecond // around a millisecond
		all = append(all, took)
		if i%3 == 0 {
			other.Record(took)
		} else {
			l.Record(took)
		}
	}
	l.Add(&other)
	slices.Sort(all)
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[int(math.Ceil(q*float64(len(all))))-1]
		got := l.Quantile(q)
		if got < want || float64(got) > float64(want)*1.01 {
			t.Errorf("quantile %v is %v, want %v and at most 1%% more", q, got, want)
		}
	}
	if l.count != uint64(len(all)) || l.max != all[len(all)-1] {
		t.Errorf("%d values up to %v, want %d up to %v", l.count, l.max, len(all), all[len(all)-1])
	}
}

func TestQuantileOfNothingIsZero(t *testing.T) {
	if got := new(Latencies).Quantile(.99); got != 0 {
		t.Errorf("got %v, want 0", got)
	}
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		of   []float64
		want float64
	}{
		{nil, 0},
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 100}, 3.5},
	} {
		before := slices.Clone(c.of)
		if got := Median(c.of); got != c.want {
			t.Errorf("median of %v is %v, want %v", c.of, got, c.want)
		}
		if !slices.Equal(before, c.of) {
			t.Errorf("median changed what it was given to %v", c.of)
		}
	}
}
