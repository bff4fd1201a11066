package beat_test

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/proto/agent/beat"
)

func TestBothEndsReadWhatTheOtherSays(t *testing.T) {
	key := beat.NewKey()
	agent, control := beat.NewSeal(7, key), beat.NewSeal(7, key)
	said := beat.Beat{Sequence: 3, Clock: -5}
	datagram := agent.Beat(nil, said)
	if session, err := beat.Session(datagram); session != 7 || err != nil {
		t.Errorf("session %d (%v), want 7", session, err)
	}
	if got, err := control.OpenBeat(datagram); got != said || err != nil {
		t.Errorf("beat %+v (%v), want %+v", got, err, said)
	}
	answer := beat.Answer{Beat: said, Quorum: true, Interval: 1500 * time.Millisecond}
	if got, err := agent.OpenAnswer(control.Answer(nil, answer)); got != answer || err != nil {
		t.Errorf("answer %+v (%v), want %+v", got, err, answer)
	}
}

// Whoever is on the way may send what they like.
func TestNothingElseIsBelieved(t *testing.T) {
	key := beat.NewKey()
	seal := beat.NewSeal(7, key)
	made := seal.Beat(nil, beat.Beat{Sequence: 1, Clock: 2})
	answer := seal.Answer(nil, beat.Answer{Beat: beat.Beat{Sequence: 1, Clock: 2}})
	for i := range made {
		changed := bytes.Clone(made)
		changed[i] ^= 0x10
		if got, err := seal.OpenBeat(changed); err == nil {
			t.Errorf("with byte %d changed it is read as %+v", i, got)
		}
	}
	for name, datagram := range map[string][]byte{"empty": nil, "short": made[:len(made)-1], "long": append(bytes.Clone(made), 0), "an answer": answer} {
		if _, err := seal.OpenBeat(datagram); !errors.Is(err, beat.ErrForm) {
			t.Errorf("%s: error %v, want %v", name, err, beat.ErrForm)
		}
		if _, err := beat.Session(datagram); !errors.Is(err, beat.ErrForm) {
			t.Errorf("%s: error of its session %v, want %v", name, err, beat.ErrForm)
		}
	}
	if _, err := seal.OpenAnswer(made); !errors.Is(err, beat.ErrForm) {
		t.Errorf("a beat taken for an answer: error %v, want %v", err, beat.ErrForm)
	}
	if _, err := beat.NewSeal(7, beat.NewKey()).OpenBeat(made); !errors.Is(err, beat.ErrForged) {
		t.Errorf("with another key: error %v, want %v", err, beat.ErrForged)
	}
	if _, err := beat.NewSeal(8, key).OpenBeat(made); !errors.Is(err, beat.ErrForm) {
		t.Errorf("of another session: error %v, want %v", err, beat.ErrForm)
	}
}

// However many agents there are, a control node takes no more beats than it can,
// until each sends one in three seconds.
func TestBeatsAreBounded(t *testing.T) {
	for sessions, want := range map[int]time.Duration{0: 500 * time.Millisecond, 250: 500 * time.Millisecond, 500: time.Second, 1000: 2 * time.Second, 100_000: 3 * time.Second} {
		if got := beat.Interval(sessions); got != want {
			t.Errorf("%d sessions: a beat each %v, want %v", sessions, got, want)
		}
	}
}

func TestAProcessThatStoodStillDoesNotCountTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		awake := beat.NewAwake(200 * time.Millisecond)
		for range 10 {
			time.Sleep(100 * time.Millisecond)
			awake.Tick(200 * time.Millisecond)
		}
		if got, want := awake.Now(), time.Second; got != want {
			t.Errorf("%v, want %v", got, want)
		}
		time.Sleep(5 * time.Second) // nobody ticks
		if got, want := awake.Now(), 1200*time.Millisecond; got != want {
			t.Errorf("%v after a stall, want %v", got, want)
		}
		awake.Tick(200 * time.Millisecond)
		time.Sleep(50 * time.Millisecond)
		if got, want := awake.Now(), 1250*time.Millisecond; got != want {
			t.Errorf("%v after it went on, want %v", got, want)
		}
	})
}

func BenchmarkBeatAndAnswer(b *testing.B) {
	key := beat.NewKey()
	agent, control := beat.NewSeal(7, key), beat.NewSeal(7, key)
	b.ReportAllocs()
	var buffer [2][]byte
	for i := range b.N {
		buffer[0] = agent.Beat(buffer[0][:0], beat.Beat{Sequence: uint64(i)})
		said, err := control.OpenBeat(buffer[0])
		if err != nil {
			b.Fatal(err)
		}
		buffer[1] = control.Answer(buffer[1][:0], beat.Answer{Beat: said})
		if _, err := agent.OpenAnswer(buffer[1]); err != nil {
			b.Fatal(err)
		}
	}
}
