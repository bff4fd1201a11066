package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"syscall"
	"testing"
	"unsafe"

	"github.com/hashicorp/raft"
)

// A promise that was given is there after any call failed or was the last
// before a crash; one that was being given is there or not.
func TestPromisesAreKept(t *testing.T) {
	for at := 1; at <= 60; at++ {
		for _, fault := range faults {
			r := rand.New(rand.NewSource(int64(at)))
			d := newMemDisk()
			s, err := CreateStable(d, "/log")
			if err != nil {
				t.Fatal(err)
			}
			d.failAt, d.fail = d.calls+at, fault.fail(r)
			kept, given := uint64(0), uint64(0)
			for given < 12 {
				given++
				if err = s.SetUint64([]byte("CurrentTerm"), given); err != nil {
					break
				}
				kept = given
			}
			d = fault.next(d, r)
			if s, err = OpenStable(d, "/log"); err != nil {
				t.Fatalf("call %d, %s: %v", at, fault.name, err)
			}
			got, err := s.GetUint64([]byte("CurrentTerm"))
			if err != nil && (kept > 0 || err.Error() != "not found") || got != kept && got != given {
				t.Errorf("call %d, %s: term %d, %v, want %d or %d", at, fault.name, got, err, kept, given)
			}
			// And what was read is what stays.
			if s, err = OpenStable(d.reboot(sometimes(r)), "/log"); err != nil {
				t.Fatal(err)
			}
			if again, _ := s.GetUint64([]byte("CurrentTerm")); again != got {
				t.Errorf("call %d, %s: term %d, then %d", at, fault.name, got, again)
			}
		}
	}
}

// One damaged copy costs nothing, wherever it is; two are refused.
func TestDamagedCopyLosesNoVote(t *testing.T) {
	for at := range int64(2 * copySize) {
		if at%7 != 0 && at%copySize > 40 {
			continue
		}
		d := newMemDisk()
		s, err := CreateStable(d, "/log")
		if err == nil {
			err = errors.Join(s.SetUint64([]byte("LastVoteTerm"), 6), s.Set([]byte("LastVoteCand"), []byte("10.0.0.1:6443")))
		}
		if err != nil {
			t.Fatal(err)
		}
		f := d.names["/log/promises"]
		f.data[at] ^= 0x20
		if s, err = OpenStable(d, "/log"); err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		vote, err := s.Get([]byte("LastVoteCand"))
		if term, err2 := s.GetUint64([]byte("LastVoteTerm")); string(vote) != "10.0.0.1:6443" || term != 6 || err != nil || err2 != nil {
			t.Errorf("byte %d: vote %q in term %d, %v, %v", at, vote, term, err, err2)
		}
		f.data[at] ^= 0x20
		f.data[100], f.data[copySize+100] = f.data[100]^1, f.data[copySize+100]^1
		if _, err := OpenStable(d, "/log"); !errors.As(err, new(*DamageError)) {
			t.Errorf("both copies damaged: %v, want a DamageError", err)
		}
	}
}

// After an fdatasync that failed nothing is promised any more.
func TestNoPromiseAfterAFailedSync(t *testing.T) {
	d := newMemDisk()
	s, err := CreateStable(d, "/log")
	if err != nil {
		t.Fatal(err)
	}
	d.failAt, d.fail = d.calls+2, func(string, *memFile, []byte, int64) error { return syscall.EIO }
	if err := s.SetUint64([]byte("CurrentTerm"), 1); !errors.Is(err, syscall.EIO) {
		t.Fatalf("got %v, want %v", err, syscall.EIO)
	}
	calls := d.calls
	if err := s.SetUint64([]byte("CurrentTerm"), 2); !errors.Is(err, ErrBroken) || d.calls != calls {
		t.Errorf("got %v after %d more calls, want %v and none", err, d.calls-calls, ErrBroken)
	}
}

// Every byte that is flipped in what was acknowledged is noticed, be it in the
// newest record: the log is whole or refused, never shorter.
func TestFlippedByteIsNeverATornEnd(t *testing.T) {
	d := newMemDisk()
	l, err := Create(small(d))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewSource(1))
	p := plain{first: 1}
	for range 12 {
		entries := entriesFrom(r, p.last()+1, 2, 700)
		if err := l.StoreLogs(entries); err != nil {
			t.Fatal(err)
		}
		p = p.append(entries)
	}
	refused, step := 0, 1
	if raced {
		step = 13
	}
	for name, f := range d.names {
		for at := 0; at < len(f.data); at += step {
			f.data[at] ^= 0x10
			l, err := Open(small(d))
			if err == nil {
				if err := p.differs(l); err != nil {
					t.Fatalf("byte %d of %s: %v", at, name, err)
				}
			} else if !errors.As(err, new(*DamageError)) {
				t.Fatalf("byte %d of %s: %v, want a DamageError", at, name, err)
			} else {
				refused++
			}
			f.data[at] ^= 0x10
		}
	}
	t.Logf("%d flips refused", refused)
}

// 100,000 entries cost less than 2 MB of memory.
func TestIndexIsCompact(t *testing.T) {
	d := newMemDisk()
	l, err := Create(Options{Disk: d, Dir: "/log", FirstBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(1000) {
		var entries []*raft.Log
		for j := range uint64(100) {
			entries = append(entries, &raft.Log{Index: i*100 + j + 1, Term: 1})
		}
		if err := l.StoreLogs(entries); err != nil {
			t.Fatal(err)
		}
	}
	bytes := 0
	for _, s := range l.segments {
		bytes += cap(s.entries) * int(unsafe.Sizeof(location{}))
	}
	if bytes > 2_000_000 {
		t.Errorf("%d bytes, want at most 2 MB", bytes)
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add(appendEntryHead(nil, &raft.Log{Index: 7, Term: 2, Extensions: []byte("x")}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var e raft.Log
		if decodeEntry(b, &e) != nil {
			return
		}
		again := append(appendEntryHead(nil, &e), e.Data...)
		var other raft.Log
		if err := decodeEntry(again, &other); err != nil || other.Index != e.Index || !bytes.Equal(other.Data, e.Data) {
			t.Errorf("%x became %x: %v", b, again, err)
		}
	})
}

func FuzzDecodeHead(f *testing.F) {
	f.Add(state{3, 9, 2}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := decodeHead(b); err == nil && h.kind != recordEnd && h.size < 1 {
			t.Errorf("%x: %+v does not go on", b, h)
		}
	})
}

func FuzzDecodePromises(f *testing.F) {
	b, _ := encodeCopy(3, map[string][]byte{"CurrentTerm": {1}})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		sequence, values, err := decodeCopy(b)
		if err != nil {
			return
		}
		if _, err := encodeCopy(sequence, values); err != nil {
			t.Error(err)
		}
	})
}

// A segment of any bytes is opened or refused, and never panics.
func FuzzOpen(f *testing.F) {
	d := newMemDisk()
	l, err := Create(small(d))
	if err != nil {
		f.Fatal(err)
	}
	if err := l.StoreLogs(entriesFrom(rand.New(rand.NewSource(1)), 1, 3, 600)); err != nil {
		f.Fatal(err)
	}
	whole := d.names["/log/"+segmentName(1)].data
	f.Add(dataSector*sectorSize, []byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, at int, b []byte) {
		if at < 0 || at+len(b) > len(whole) {
			return
		}
		d := newMemDisk()
		data := bytes.Clone(whole)
		copy(data[at:], b)
		d.names["/log/"+segmentName(1)] = &memFile{disk: d, data: data, dirty: map[int64]bool{}}
		l, err := Open(small(d))
		if err == nil {
			_ = l.GetLog(1, &raft.Log{})
		} else if !errors.As(err, new(*DamageError)) {
			t.Error(fmt.Errorf("not a DamageError: %w", err))
		}
	})
}
