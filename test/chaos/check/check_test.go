package check

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const budget = 10 * time.Second

func own(key string) string {
	if strings.HasSuffix(key, "/") {
		return ""
	}
	return key
}

func bank(key string) string { return key[:strings.LastIndexByte(key, '/')+1] }

// did makes an operation between two moments, in milliseconds.
func did(call, end int, op Op) *Op {
	op.Call, op.Return = time.Duration(call)*time.Millisecond, time.Duration(end)*time.Millisecond
	if op.Outcome == "" {
		op.Outcome = OK
	}
	op.Node, op.Process = "n1", "n1/1"
	return &op
}

func put(key, value string, guards ...Guard) *Commit {
	return &Commit{Guards: guards, Writes: []Write{{key, value}}}
}

func found(key, value string) []Item { return []Item{{Key: key, Value: value}} }

// has fails unless the promises that were broken are exactly those.
func has(t *testing.T, got []Violation, want ...string) {
	t.Helper()
	broken := map[string]bool{}
	for _, v := range got {
		broken[v.Promise] = true
	}
	for _, promise := range want {
		if !broken[promise] {
			t.Errorf("%q is not found broken: %v", promise, got)
		}
		delete(broken, promise)
	}
	if len(broken) > 0 {
		t.Errorf("broken without a reason: %v", got)
	}
}

func TestLinearizable(t *testing.T) {
	for _, test := range []struct {
		name    string
		history []*Op
		broken  []string
	}{
		{"read of what was written", []*Op{
			did(0, 10, Op{Commit: put("k", "a")}),
			did(20, 30, Op{Get: "k", Items: found("k", "a")}),
		}, nil},
		{"stale read", []*Op{
			did(0, 10, Op{Commit: put("k", "a")}),
			did(20, 30, Op{Commit: put("k", "b")}),
			did(40, 50, Op{Get: "k", Items: found("k", "a")}),
		}, []string{Linearizable}},
		{"read of either while it is written", []*Op{
			did(0, 10, Op{Commit: put("k", "a")}),
			did(20, 50, Op{Commit: put("k", "b")}),
			did(30, 40, Op{Get: "k", Items: found("k", "a")}),
			did(30, 40, Op{Get: "k", Items: found("k", "b")}),
		}, nil},
		{"back and forth while it is written", []*Op{
			did(0, 10, Op{Commit: put("k", "a")}),
			did(20, 90, Op{Commit: put("k", "b")}),
			did(30, 40, Op{Get: "k", Items: found("k", "b")}),
			did(50, 60, Op{Get: "k", Items: found("k", "a")}),
		}, []string{Linearizable}},
		{"lost write", []*Op{
			did(0, 10, Op{Commit: put("k", "a")}),
			did(20, 30, Op{Get: "k"}),
		}, []string{Linearizable}},
		{"unknown outcome that shows late", []*Op{
			did(0, 10, Op{Commit: put("k", "a"), Outcome: Unknown}),
			did(20, 30, Op{Get: "k"}),
			did(40, 50, Op{Get: "k", Items: found("k", "a")}),
		}, nil},
		{"unknown outcome that shows and goes", []*Op{
			did(0, 10, Op{Commit: put("k", "a"), Outcome: Unknown}),
			did(20, 30, Op{Get: "k", Items: found("k", "a")}),
			did(40, 50, Op{Get: "k"}),
		}, []string{Linearizable}},
		{"unknown outcome that never shows", []*Op{
			did(0, 10, Op{Commit: put("k", "a"), Outcome: Unknown}),
			did(20, 30, Op{Get: "k"}),
		}, nil},
		{"refused, and read", []*Op{
			did(0, 10, Op{Commit: put("k", "a"), Outcome: Refused}),
			did(20, 30, Op{Get: "k", Items: found("k", "a")}),
		}, []string{Linearizable}},
		{"guard holds that cannot", []*Op{
			did(0, 10, Op{Commit: put("k", "a")}),
			did(20, 30, Op{Commit: put("k", "b", Guard{Key: "k"})}),
		}, []string{Linearizable}},
		{"guard fails that must hold", []*Op{
			did(0, 10, Op{Commit: put("k", "a")}),
			did(20, 30, Op{Commit: put("k", "b", Guard{"k", 1, "a"}), Outcome: Failed}),
		}, []string{Linearizable}},
		{"two win one guard", []*Op{
			did(0, 10, Op{Commit: put("k", "a")}),
			did(20, 50, Op{Commit: put("k", "b", Guard{"k", 1, "a"})}),
			did(30, 60, Op{Commit: put("k", "c", Guard{"k", 1, "a"})}),
		}, []string{Linearizable}},
		{"deleted", []*Op{
			did(0, 10, Op{Commit: put("k", "a")}),
			did(20, 30, Op{Commit: put("k", "")}),
			did(40, 50, Op{Get: "k"}),
			did(60, 70, Op{Commit: put("k", "b", Guard{Key: "k"})}),
		}, nil},
		{"stale local read is allowed", []*Op{
			did(0, 10, Op{Commit: put("k", "a")}),
			did(20, 30, Op{Get: "k", Local: true}),
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			has(t, CheckLinearizable(test.history, nil, own, budget, dir), test.broken...)
			_, err := os.Stat(filepath.Join(dir, Linearizable+"-k.html"))
			if drawn := err == nil; drawn != (len(test.broken) > 0) {
				t.Errorf("drawn: %t", drawn)
			}
		})
	}
}

func transfer(a, b string) *Commit { return &Commit{Writes: []Write{{"b/x", a}, {"b/y", b}}} }

func both(a, b string) []Item { return []Item{{Key: "b/x", Value: a}, {Key: "b/y", Value: b}} }

// Half a transaction is seen only by who looks at both keys.
func TestTransactionsAreSeenWhole(t *testing.T) {
	opened, moved := did(0, 10, Op{Commit: transfer("100:a", "100:b")}), did(20, 30, Op{Commit: transfer("90:c", "110:d")})
	whole := []*Op{opened, moved, did(40, 50, Op{List: "b/", Items: both("90:c", "110:d")})}
	has(t, CheckLinearizable(whole, nil, bank, budget, ""))
	has(t, CheckBank(whole, "b/", 2, 200))
	half := []*Op{opened, moved, did(25, 50, Op{List: "b/", Items: both("90:c", "100:b")})}
	has(t, CheckLinearizable(half, nil, bank, budget, ""), Linearizable)
	has(t, CheckBank(half, "b/", 2, 200), Conserved)
	has(t, CheckBank([]*Op{opened, did(20, 30, Op{List: "b/", Items: both("200:a", "")[:1]})}, "b/", 2, 200), Conserved)
}

// What cannot be decided in time must not pass for correct: it is reported.
func TestUndecidedIsAViolation(t *testing.T) {
	var history []*Op
	for i := range 40 {
		history = append(history, did(0, 1000, Op{Commit: put("k", string(rune('A'+i)))}))
	}
	for i := range 12 {
		history = append(history, did(10*i, 1000, Op{Get: "k", Items: found("k", string(rune('A'+i)))}))
	}
	history = append(history, did(2000, 2010, Op{Get: "k", Items: found("k", "none of them")}))
	has(t, CheckLinearizable(history, nil, own, 10*time.Millisecond, ""), Undecided)
}

// events makes a log of changes 1, 2 and on, told by one watch, without the
// revisions that are 0.
func events(t *testing.T, all ...Event) *Log {
	t.Helper()
	l := NewLog(0)
	w := l.Watch("w", "", 0)
	w.Message("n1", all, all[len(all)-1].Revision)
	if got := l.Settle([]*Watch{w}, all[len(all)-1].Revision); len(got) > 0 {
		t.Fatal(got)
	}
	return l
}

func TestLogAgainstWhatClientsSaw(t *testing.T) {
	a, b := Event{1, "k", "a"}, Event{2, "k", "b"}
	wroteA := did(0, 10, Op{Commit: put("k", "a"), Revision: 1, WriteRevisions: []uint64{1}})
	wroteB := did(20, 30, Op{Commit: put("k", "b", Guard{"k", 1, "a"}), Revision: 2, WriteRevisions: []uint64{2}})
	item := func(value string, revision uint64) []Item { return []Item{{"k", value, revision, 1}} }
	with := func(op *Op, change func(*Op)) *Op {
		other := *op
		change(&other)
		return &other
	}
	for _, test := range []struct {
		name    string
		log     []Event
		history []*Op
		broken  []string
	}{
		{"as it should be", []Event{a, b}, []*Op{
			wroteA, wroteB,
			did(40, 50, Op{Get: "k", Items: item("b", 2), Revision: 2}),
			did(60, 70, Op{Get: "k", Local: true, Items: item("b", 2), Revision: 2}),
		}, nil},
		{"acknowledged and overwritten by nobody's write", []Event{a, {2, "k", "x"}}, []*Op{wroteA, wroteB}, []string{Durable, Once}},
		{"acknowledged and lost", []Event{a}, []*Op{wroteA, wroteB}, []string{Durable}},
		{"applied though refused", []Event{a, b}, []*Op{wroteA, with(wroteB, func(o *Op) { o.Outcome = Refused })}, []string{Refusal}},
		{"applied though its guard failed", []Event{a, b}, []*Op{wroteA, with(wroteB, func(o *Op) { o.Outcome = Failed })}, []string{Refusal}},
		{"applied twice", []Event{a, b, {3, "k", "a"}}, []*Op{wroteA, wroteB}, []string{Once}},
		{"guard did not hold", []Event{{1, "k", "x"}, b}, []*Op{
			did(0, 10, Op{Commit: put("k", "x"), Revision: 1, WriteRevisions: []uint64{1}}), with(wroteB, func(o *Op) {}),
			did(0, 1, Op{Commit: put("k", "a"), Outcome: Unknown}),
		}, []string{Guards}},
		{"read of another state than its revision's", []Event{a, b}, []*Op{wroteA, wroteB, did(40, 50, Op{Get: "k", Items: item("a", 1), Revision: 2})}, []string{Reads}},
		{"read before the write was asked for", []Event{a, b}, []*Op{
			wroteA, with(wroteB, func(o *Op) { o.Call = 100 * time.Millisecond; o.Return = 110 * time.Millisecond }),
			did(40, 50, Op{Get: "k", Local: true, Items: item("b", 2), Revision: 2}),
		}, []string{Reads}},
		{"read of the past", []Event{a, b}, []*Op{wroteA, wroteB, did(40, 50, Op{Get: "k", Items: item("a", 1), Revision: 1})}, []string{Revisions}},
		{"local read of the past", []Event{a, b}, []*Op{wroteA, wroteB, did(40, 50, Op{Get: "k", Local: true, Items: item("a", 1), Revision: 1})}, nil},
		{"local read that goes back", []Event{a, b}, []*Op{
			wroteA, wroteB,
			did(40, 50, Op{Get: "k", Local: true, Items: item("b", 2), Revision: 2}),
			did(60, 70, Op{Get: "k", Local: true, Items: item("a", 1), Revision: 1}),
		}, []string{Monotonic}},
		{"list without a key", []Event{a, {2, "l", "b"}}, []*Op{
			wroteA, did(20, 30, Op{Commit: put("l", "b"), Revision: 2, WriteRevisions: []uint64{2}}),
			did(40, 50, Op{List: "k", Revision: 2}),
		}, []string{Reads}},
		{"deleted, and gone", []Event{a, {2, "k", ""}}, []*Op{
			wroteA, did(20, 30, Op{Commit: put("k", ""), Revision: 2, WriteRevisions: []uint64{2}}),
			did(40, 50, Op{Get: "k", Revision: 2}),
		}, nil},
		{"delete of nothing, where there was something", []Event{a}, []*Op{
			wroteA, did(20, 30, Op{Commit: put("k", ""), Revision: 1, WriteRevisions: []uint64{0}}),
		}, []string{Revisions}},
	} {
		t.Run(test.name, func(t *testing.T) {
			has(t, CheckLog(events(t, test.log...), test.history, ""), test.broken...)
		})
	}
}

func TestWatches(t *testing.T) {
	a, b, c := Event{1, "k/1", "a"}, Event{2, "l/1", "b"}, Event{3, "k/1", "c"}
	whole := func(l *Log) *Watch {
		w := l.Watch("whole", "", 0)
		w.Message("n1", []Event{a, b, c}, 3)
		return w
	}
	for _, test := range []struct {
		name   string
		watch  func(*Log) *Watch
		broken []string
	}{
		{"resumed elsewhere", func(l *Log) *Watch {
			w := l.Watch("w", "", 0)
			w.Message("n1", []Event{a}, 1)
			w.Message("n2", []Event{b, c}, 3)
			return w
		}, nil},
		{"of a prefix", func(l *Log) *Watch {
			w := l.Watch("w", "k/", 0)
			w.Message("n1", []Event{a}, 2)
			w.Message("n2", []Event{c}, 3)
			return w
		}, nil},
		{"one is missing", func(l *Log) *Watch {
			w := l.Watch("w", "k/", 0)
			w.Message("n1", []Event{c}, 3)
			return w
		}, []string{Watches}},
		{"progress past what was not told", func(l *Log) *Watch {
			w := l.Watch("w", "k/", 0)
			w.Message("n1", nil, 2)
			w.Message("n2", []Event{a, c}, 3)
			return w
		}, []string{Watches}},
		{"twice", func(l *Log) *Watch {
			w := l.Watch("w", "", 0)
			w.Message("n1", []Event{a, b}, 2)
			w.Message("n2", []Event{b, c}, 3)
			return w
		}, []string{Watches}},
		{"out of order", func(l *Log) *Watch {
			w := l.Watch("w", "k/", 0)
			w.Message("n1", []Event{c, a}, 3)
			return w
		}, []string{Watches}},
		{"another story", func(l *Log) *Watch {
			w := l.Watch("w", "k/", 0)
			w.Message("n2", []Event{a, {3, "k/1", "x"}}, 3)
			return w
		}, []string{Watches}},
		{"of another prefix", func(l *Log) *Watch {
			w := l.Watch("w", "k/", 0)
			w.Message("n1", []Event{a, b, c}, 3)
			return w
		}, []string{Watches}},
		{"stopped early", func(l *Log) *Watch {
			w := l.Watch("w", "", 0)
			w.Message("n1", []Event{a, b}, 2)
			return w
		}, []string{Watches}},
		{"began anew where the past was forgotten", func(l *Log) *Watch {
			w := l.Watch("w", "", 0)
			w.Message("n1", []Event{a}, 1)
			w.Skip(3)
			return w
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := NewLog(0)
			has(t, l.Settle([]*Watch{whole(l), test.watch(l)}, 3), test.broken...)
			if !l.Complete() {
				t.Error("the log is not complete, though one watch saw all")
			}
		})
	}
}

// Only what every watch was told is forgotten may be missing from the log.
func TestLogWithGaps(t *testing.T) {
	a, c := Event{1, "k", "a"}, Event{3, "k", "c"}
	l := NewLog(0)
	w := l.Watch("w", "", 0)
	w.Message("n1", []Event{a}, 1)
	w.Skip(2)
	w.Message("n1", []Event{c}, 3)
	has(t, l.Settle([]*Watch{w}, 3))
	if l.Complete() {
		t.Error("complete, without change 2")
	}
	wrote := did(0, 10, Op{Commit: put("k", "b"), Revision: 2, WriteRevisions: []uint64{2}})
	has(t, CheckLog(l, []*Op{wrote, did(0, 10, Op{Commit: put("k", "a")}), did(0, 10, Op{Commit: put("k", "c")})}, ""))

	l = NewLog(0)
	w = l.Watch("w", "k", 0) // hears nothing of other keys
	w.Message("n1", []Event{a, c}, 3)
	has(t, l.Settle([]*Watch{w}, 3), Watches)
}

func TestFinalState(t *testing.T) {
	l := events(t, Event{1, "k", "a"}, Event{2, "l", "b"}, Event{3, "l", ""})
	history := []*Op{did(0, 10, Op{Commit: put("k", "a"), Revision: 1, WriteRevisions: []uint64{1}})}
	has(t, CheckFinal(l, history, "", []Item{{"k", "a", 1, 1}}, 3))
	has(t, CheckFinal(l, history, "", nil, 3), Durable)
	has(t, CheckFinal(l, history, "", []Item{{"k", "a", 1, 1}, {"l", "b", 2, 2}}, 3), Durable)
	has(t, CheckFinal(l, history, "", []Item{{"k", "a", 1, 1}}, 0), Durable)
}
