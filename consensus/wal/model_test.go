package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// plain is what a log should be.
type plain struct {
	first   uint64 // of the entries, or the least that can come next
	entries []*raft.Log
}

func (p plain) last() uint64 { return p.first + uint64(len(p.entries)) - 1 }

func (p plain) append(entries []*raft.Log) plain {
	if from := entries[0].Index; from != p.last()+1 {
		return plain{from, entries}
	}
	return plain{p.first, append(p.entries[:len(p.entries):len(p.entries)], entries...)}
}

func (p plain) delete(low, high uint64) plain {
	switch {
	case high >= p.last():
		return plain{p.first, p.entries[:max(low, p.first)-p.first]}
	default:
		return plain{high + 1, p.entries[high+1-p.first:]}
	}
}

// differs says how a log is not what it should be.
func (p plain) differs(l *Log) error {
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	wantFirst, wantLast := p.first, p.last()
	if len(p.entries) == 0 {
		wantFirst, wantLast = 0, 0
	}
	if first != wantFirst || last != wantLast {
		return fmt.Errorf("entries %d to %d, want %d to %d", first, last, wantFirst, wantLast)
	}
	for _, want := range p.entries {
		var got raft.Log
		if err := l.GetLog(want.Index, &got); err != nil {
			return fmt.Errorf("entry %d: %w", want.Index, err)
		}
		if got.Index != want.Index || got.Term != want.Term || got.Type != want.Type || !bytes.Equal(got.Data, want.Data) ||
			!bytes.Equal(got.Extensions, want.Extensions) || !got.AppendedAt.Equal(want.AppendedAt) {
			return fmt.Errorf("entry %d is %v, want %v", want.Index, got, *want)
		}
	}
	for _, index := range []uint64{p.first - 1, p.last() + 1} {
		if err := l.GetLog(index, &raft.Log{}); !errors.Is(err, raft.ErrLogNotFound) {
			return fmt.Errorf("entry %d: %v, want %v", index, err, raft.ErrLogNotFound)
		}
	}
	return nil
}

func entriesFrom(r *rand.Rand, index uint64, count, most int) []*raft.Log {
	var entries []*raft.Log
	for i := range count {
		e := &raft.Log{Index: index + uint64(i), Term: uint64(r.Intn(1000)), Type: raft.LogType(r.Intn(6))}
		if n := r.Intn(most); n > 0 {
			e.Data = make([]byte, n)
			r.Read(e.Data)
		}
		if r.Intn(3) == 0 {
			e.Extensions = []byte("an extension")
		}
		if r.Intn(2) == 0 {
			e.AppendedAt = time.Unix(0, 1+r.Int63())
		}
		entries = append(entries, e)
	}
	return entries
}

// step makes a random change, and returns what the log then is, and was.
func step(r *rand.Rand, l *Log, p plain) (plain, error) {
	n := len(p.entries)
	switch k := r.Intn(20); {
	case k < 12 || n == 0:
		index := p.last() + 1
		if r.Intn(15) == 0 {
			index += uint64(r.Intn(30)) // a snapshot came in between
		}
		most := []int{20, 600, 600, 3000, 12000}[r.Intn(5)]
		entries := entriesFrom(r, index, 1+r.Intn(4), most)
		return p.append(entries), l.StoreLogs(entries)
	case k < 14:
		high := p.first + uint64(r.Intn(n))
		low := p.first
		return p.delete(low, high), l.DeleteRange(low, high)
	case k < 17:
		low := p.first + uint64(n-1-r.Intn(min(n, 6)))
		return p.delete(low, p.last()), l.DeleteRange(low, p.last())
	case k < 18:
		return p, l.Prepare()
	case k < 19:
		l.writing.Lock()
		l.mark()
		l.writing.Unlock()
		return p, nil
	default:
		return p, nil
	}
}

func small(d Disk) Options {
	return Options{Disk: d, Dir: "/log", SegmentBytes: 64 * sectorSize, FirstBytes: 32 * sectorSize}
}

// A log is what a plain slice is, over everything that can be done to it and
// through being opened again.
func TestLogIsASlice(t *testing.T) {
	for seed := range int64(60) {
		r := rand.New(rand.NewSource(seed))
		d := newMemDisk()
		l, err := Create(small(d))
		if err != nil {
			t.Fatal(err)
		}
		p := plain{first: 1}
		for range 150 {
			if p, err = step(r, l, p); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if r.Intn(10) == 0 {
				if r.Intn(2) == 0 {
					if err := l.Close(); err != nil {
						t.Fatal(err)
					}
				}
				if l, err = Open(small(d)); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
			if r.Intn(5) == 0 {
				if err := p.differs(l); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		}
		if got, bound := l.Bytes(), int64(0); got <= bound {
			t.Errorf("%d bytes", got)
		}
	}
}

// fault is one way for a call to fail, and what the log is read from afterwards.
type fault struct {
	name string
	fail func(*rand.Rand) func(string, *memFile, []byte, int64) error
	next func(*memDisk, *rand.Rand) *memDisk
}

var faults = []fault{
	{"crash, nothing unsynced is kept", crash, func(d *memDisk, _ *rand.Rand) *memDisk { return d.reboot(always(false)) }},
	{"crash, all is kept", crash, func(d *memDisk, _ *rand.Rand) *memDisk { return d.reboot(always(true)) }},
	{"crash, some is kept", crash, func(d *memDisk, r *rand.Rand) *memDisk { return d.reboot(sometimes(r)) }},
	{"EIO, then a new process", eio, func(d *memDisk, _ *rand.Rand) *memDisk { return d.restart() }},
	{"EIO, then a crash", eio, func(d *memDisk, r *rand.Rand) *memDisk { return d.reboot(sometimes(r)) }},
	{"ENOSPC, then a crash", enospc, func(d *memDisk, r *rand.Rand) *memDisk { return d.reboot(sometimes(r)) }},
}

func eio(r *rand.Rand) func(string, *memFile, []byte, int64) error { return refuse(r, syscall.EIO) }
func enospc(r *rand.Rand) func(string, *memFile, []byte, int64) error {
	return refuse(r, syscall.ENOSPC)
}

// Whatever call fails or is the last before a crash, and whatever the disk has
// of it, the log opened afterwards has all that was acknowledged, and the
// change under way wholly or not at all; and that stays so through what comes
// then, another crash included.
func TestEveryCallCanFail(t *testing.T) {
	seeds := int64(6)
	if testing.Short() || raced {
		seeds = 1
	}
	opened := 0
	for seed := range seeds {
		calls := 1 << 30
		for at := 1; at <= calls; at++ {
			for _, fault := range faults {
				name := fmt.Sprintf("seed %d, call %d, %s", seed, at, fault.name)
				r := rand.New(rand.NewSource(seed))
				d := newMemDisk()
				l, err := Create(small(d))
				if err != nil {
					t.Fatal(err)
				}
				before := d.calls
				tears := rand.New(rand.NewSource(seed*1000 + int64(at)))
				d.failAt, d.fail = before+at, fault.fail(tears)
				p, next := plain{first: 1}, plain{first: 1}
				for range 40 {
					if next, err = step(r, l, p); err != nil {
						break
					}
					p = next
				}
				if d.failed == "" {
					calls = d.calls - before
				}
				if err != nil && !errors.Is(err, ErrNoSpace) && !errors.Is(err, errCrashed) && !errors.Is(err, syscall.EIO) && !errors.Is(err, syscall.ENOSPC) {
					t.Fatalf("%s: %v", name, err)
				}
				if errors.Is(err, ErrNoSpace) {
					if err := p.differs(l); err != nil {
						t.Fatalf("%s: after ErrNoSpace: %v", name, err)
					}
				}
				d = fault.next(d, tears)
				for round := range 2 {
					if l, err = Open(small(d)); err != nil {
						t.Fatalf("%s (%s), round %d: %v; %s", name, d.failed, round, err, d)
					}
					opened++
					if old := p.differs(l); old != nil {
						if is := next.differs(l); is != nil {
							t.Fatalf("%s, round %d: neither as before (%v) nor as after (%v)", name, round, old, is)
						}
						p = next
					}
					for range 6 {
						if p, err = step(r, l, p); err != nil {
							t.Fatalf("%s, round %d: %v", name, round, err)
						}
					}
					next = p
					d = d.reboot(sometimes(tears))
				}
			}
		}
	}
	t.Logf("%d logs opened", opened)
}

// A full disk refuses an append before it writes anything of it; the log takes
// the same append again and again until there is room.
func TestFullDiskRefusesAndRecovers(t *testing.T) {
	for seed := range int64(20) {
		r := rand.New(rand.NewSource(seed))
		d := newMemDisk()
		d.space = 200 * sectorSize
		l, err := Create(small(d))
		if err != nil {
			t.Fatal(err)
		}
		p := plain{first: 1}
		var entries []*raft.Log
		for {
			entries = entriesFrom(r, p.last()+1, 1+r.Intn(3), 2000)
			if err = l.StoreLogs(entries); err != nil {
				break
			}
			p = p.append(entries)
		}
		if !errors.Is(err, ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("got %v, want %v", err, ErrNoSpace)
		}
		if l.Reserve() {
			t.Error("full with a segment in reserve")
		}
		calls := d.calls
		if err := l.StoreLogs(entries); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("again: got %v, want %v", err, ErrNoSpace)
		}
		if d.calls > calls+3 { // a file is created, not allocated, removed
			t.Errorf("%d calls for a refusal", d.calls-calls)
		}
		if err := p.differs(l); err != nil {
			t.Fatal(err)
		}
		// Dropping what a snapshot covers makes room by itself.
		low, high := p.first, p.first+uint64(len(p.entries)/2)
		if err := l.DeleteRange(low, high); err != nil {
			t.Fatal(err)
		}
		p = p.delete(low, high)
		if err := l.StoreLogs(entries); err != nil {
			t.Fatalf("with room again: %v", err)
		}
		p = p.append(entries)
		if l, err = Open(small(d.reboot(sometimes(r)))); err != nil {
			t.Fatal(err)
		}
		if err := p.differs(l); err != nil {
			t.Fatal(err)
		}
	}
}

// A refused write that left some of itself, as on a file system that never
// overwrites in place, is gone before the next append takes its place.
func TestRefusedWriteLeavesNothing(t *testing.T) {
	for seed := range int64(50) {
		r := rand.New(rand.NewSource(seed))
		d := newMemDisk()
		l, err := Create(small(d))
		if err != nil {
			t.Fatal(err)
		}
		p := plain{first: 1}
		for range 20 {
			entries := entriesFrom(r, p.last()+1, 2, 1500)
			if r.Intn(2) == 0 {
				d.failAt, d.fail = d.calls+1+r.Intn(3), refuse(r, nil)
				d.fail = func(what string, f *memFile, b []byte, at int64) error {
					if what != "write" {
						return nil
					}
					return refuse(r, syscall.ENOSPC)(what, f, b, at)
				}
			}
			for err = l.StoreLogs(entries); errors.Is(err, ErrNoSpace); err = l.StoreLogs(entries) {
				entries = entriesFrom(r, p.last()+1, 2, 1500)
			}
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			p = p.append(entries)
		}
		if l, err = Open(small(d.reboot(sometimes(r)))); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := p.differs(l); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
