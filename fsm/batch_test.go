package fsm

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// How a leader joins commands in entries must not show in anything: neither in
// the state, nor in an answer, nor in what a watcher sees, whatever each
// replica's history holds.
func TestGroupingDoesNotShow(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		cfg := Config{}
		if seed%3 == 1 {
			cfg.HistoryEvents = 1 + r.IntN(40)
		}
		if seed%3 == 2 {
			cfg.HistoryBytes = int64(1 + r.IntN(20_000))
		}
		alone, joined := New(cfg), New(cfg)
		for range 40 {
			var cmds, want [][]byte
			for range 1 + r.IntN(30) {
				c := encode(t, randomCommand(r, alone.Revision()))
				answer, err := alone.ApplyOne(c)
				if err != nil {
					t.Fatal(err)
				}
				cmds, want = append(cmds, c), append(want, answer)
			}
			wanted := make([]bool, len(cmds))
			for i := range wanted {
				if wanted[i] = r.IntN(3) > 0; !wanted[i] {
					want[i] = nil
				}
			}
			got, err := joined.Apply(cmds, wanted)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("seed %d: answers to one by one (-) and together (+) differ:\n%s", seed, diff)
			}
			for _, got := range got {
				result := &storagev1.Result{}
				if err := proto.Unmarshal(got, result); err != nil {
					t.Fatal(err)
				}
				if again := encode(t, result); !bytes.Equal(got, again) {
					t.Fatalf("seed %d: answer %x, protobuf would write %x", seed, got, again)
				}
			}
		}
		if !bytes.Equal(snapshotOf(t, alone), snapshotOf(t, joined)) {
			t.Errorf("seed %d: snapshots differ", seed)
		}
		for _, prefix := range []string{"", "t0/", "t1/", "t2/"} {
			for after := range alone.Revision() + 1 {
				_, errAlone := alone.Watch(prefix, after)
				_, errJoined := joined.Watch(prefix, after)
				if !errors.Is(errJoined, errAlone) {
					t.Fatalf("seed %d: watch of %q after %d: alone %v, joined %v", seed, prefix, after, errAlone, errJoined)
				}
			}
		}
		from := alone.Revision()
		for ; from > 0; from-- {
			if _, err := alone.Watch("", from-1); err != nil {
				break
			}
		}
		if diff := cmp.Diff(eventsOf(t, alone, from), eventsOf(t, joined, from)); diff != "" {
			t.Errorf("seed %d: events one by one (-) and together (+) differ:\n%s", seed, diff)
		}
	}
}

// An entry with a command that this build does not know is carried out up to
// it, as if its commands had come one by one.
func TestBatchEndsBeforeAnUnknownCommand(t *testing.T) {
	good := func(key string) []byte { return encode(t, txn(put(key, "1"))) }
	for name, bad := range map[string]struct {
		cmd  []byte
		want error
	}{
		"unknown":    {encode(t, &storagev1.Command{}), ErrUnknown},
		"unreadable": {[]byte("junk"), ErrUnreadable},
	} {
		for at := range 4 {
			m := New(Config{})
			cmds := slices.Insert([][]byte{good("a"), good("b"), good("c")}, at, bad.cmd)
			answers, err := m.Apply(cmds, nil)
			if !errors.Is(err, bad.want) {
				t.Errorf("%s at %d: %v, want %v", name, at, err, bad.want)
			}
			if len(answers) != at || m.Revision() != uint64(at) || len(eventsOf(t, m, 0)) != at {
				t.Errorf("%s at %d: %d answers, revision %d, %d events, want %d of each",
					name, at, len(answers), m.Revision(), len(eventsOf(t, m, 0)), at)
			}
		}
	}
}
