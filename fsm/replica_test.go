package fsm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// randomCommand is any command over few keys, so that guards hold about as
// often as they fail.
func randomCommand(r *rand.Rand, revision uint64) *storagev1.Command {
	key := func() string { return fmt.Sprintf("t%d/%d", r.IntN(3), r.IntN(8)) }
	if r.IntN(50) == 0 {
		return &storagev1.Command{Compact: &storagev1.Compact{Revision: r.Uint64N(revision + 10)}}
	}
	var parts []any
	for range r.IntN(3) {
		switch r.IntN(3) {
		case 0:
			parts = append(parts, exists(key()))
		case 1:
			parts = append(parts, at(key(), 0))
		default:
			parts = append(parts, at(key(), revision-min(revision, r.Uint64N(20))))
		}
	}
	for range r.IntN(4) {
		if r.IntN(3) == 0 {
			parts = append(parts, del(key()))
		} else {
			parts = append(parts, put(key(), fmt.Sprint(r.IntN(100)), "app", fmt.Sprint(r.IntN(4)), "app", "twice", "a", "unsorted"))
		}
	}
	return txn(parts...)
}

// Replicas differ in what happens to them beside the log: one is restored from
// another's snapshot midway, one is read and watched all the time, one keeps
// little history. Their state, answers and events must not differ.
func TestReplicasStayIdentical(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, seed))
		steady, joined, short := New(Config{}), New(Config{}), New(Config{HistoryEvents: 5})
		half := 200 + r.IntN(200)
		for range half {
			c := randomCommand(r, steady.Revision())
			apply(t, steady, c)
			apply(t, short, c)
		}
		apply(t, joined, txn(put("other", "state"), put("t1/1", "other")))
		if err := joined.Restore(bytes.NewReader(snapshotOf(t, steady))); err != nil {
			t.Fatal(err)
		}
		restoredAt := steady.Revision()
		for range 400 {
			c := randomCommand(r, steady.Revision())
			// Reading makes the writer copy nodes; that must not show.
			steady.View()
			want := apply(t, steady, c)
			for name, other := range map[string]*Machine{"joined": joined, "short": short} {
				if diff := cmp.Diff(want, apply(t, other, c), protocmp.Transform()); diff != "" {
					t.Fatalf("seed %d: %s replica answers %v differently (-steady +%s):\n%s", seed, name, c, name, diff)
				}
			}
		}
		want := snapshotOf(t, steady)
		for name, other := range map[string]*Machine{"joined": joined, "short": short} {
			if got := snapshotOf(t, other); !bytes.Equal(got, want) {
				t.Errorf("seed %d: snapshots of the steady and the %s replica differ", seed, name)
			}
		}
		from := max(restoredAt, steady.compacted)
		if diff := cmp.Diff(eventsOf(t, steady, from), eventsOf(t, joined, from)); diff != "" {
			t.Errorf("seed %d: events differ (-steady +joined):\n%s", seed, diff)
		}
	}
}
