package measure

import (
	"math"
	"math/bits"
	"slices"
	"time"
)

// Latencies are counted in buckets, 128 to each power of two, so that a run of
// any length takes the same memory and a percentile is off by less than 1 %.
const (
	bucketBits   = 7
	bucketsEach  = 1 << bucketBits
	bucketsTotal = (65 - bucketBits) * bucketsEach
)

// Latencies is a histogram. It is not safe for concurrent use: every client
// has its own, and they are added up.
type Latencies struct {
	buckets [bucketsTotal]uint64
	count   uint64
	max     time.Duration
}

// Record counts one.
func (l *Latencies) Record(took time.Duration) {
	took = max(took, 0)
	l.buckets[bucketOf(uint64(took))]++
	l.count++
	l.max = max(l.max, took)
}

// Add counts all of other, too.
func (l *Latencies) Add(other *Latencies) {
	for i, n := range other.buckets {
		l.buckets[i] += n
	}
	l.count += other.count
	l.max = max(l.max, other.max)
}

// Count is how many there are.
func (l *Latencies) Count() uint64 { return l.count }

// Quantile answers the smallest latency that a share q of all did not exceed,
// rounded up to the end of its bucket; 0 if there is none at all.
func (l *Latencies) Quantile(q float64) time.Duration {
	if l.count == 0 {
		return 0
	}
	rank := max(uint64(math.Ceil(q*float64(l.count))), 1)
	var seen uint64
	for i, n := range l.buckets {
		if seen += n; seen >= rank {
			return min(time.Duration(bucketEnd(i)), l.max)
		}
	}
	return l.max
}

// bucketOf counts up one by one below 2*bucketsEach, and keeps the leading
// bucketBits+1 bits of what is greater.
func bucketOf(v uint64) int {
	shift := max(bits.Len64(v)-bucketBits-1, 0)
	return shift*bucketsEach + int(v>>shift)
}

// bucketEnd is the greatest value that falls into a bucket.
func bucketEnd(i int) uint64 {
	shift := max(i/bucketsEach-1, 0)
	return uint64(i-shift*bucketsEach+1)<<shift - 1
}

// Median of an even number of values is the mean of the two in the middle; of
// none it is 0.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// Milliseconds is the unit of every time in a report.
func Milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
