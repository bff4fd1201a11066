package consensus

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"
)

func TestEnvelopeRoundTrip(t *testing.T) {
	for _, want := range []envelope{
		{},
		{term: 7},
		{term: 1 << 60, commands: []command{{origin: 1<<64 - 1, sequence: 1 << 63, data: []byte("a")}, {data: nil}, {origin: 3, data: bytes.Repeat([]byte("x"), 1<<16)}}},
	} {
		got, err := decodeEnvelope(want.encode())
		if err != nil {
			t.Fatal(err)
		}
		if got.term != want.term || len(got.commands) != len(want.commands) {
			t.Fatalf("got term %d with %d commands, want %d with %d", got.term, len(got.commands), want.term, len(want.commands))
		}
		for i, c := range got.commands {
			w := want.commands[i]
			if c.origin != w.origin || c.sequence != w.sequence || !bytes.Equal(c.data, w.data) {
				t.Errorf("command %d: got %v, want %v", i, c, w)
			}
		}
	}
}

func TestDamagedEnvelopeIsRefused(t *testing.T) {
	whole := envelope{term: 3, commands: []command{{1, 2, []byte("one")}, {1, 3, []byte("two")}}}.encode()
	for i := range whole {
		if _, err := decodeEnvelope(whole[:i]); !errors.Is(err, errEnvelope) {
			t.Errorf("cut at %d: %v, want %v", i, err, errEnvelope)
		}
		for bit := range 8 {
			flipped := bytes.Clone(whole)
			flipped[i] ^= 1 << bit
			if _, err := decodeEnvelope(flipped); !errors.Is(err, errEnvelope) {
				t.Errorf("bit %d of byte %d flipped: %v, want %v", bit, i, err, errEnvelope)
			}
		}
	}
}

func FuzzDecodeEnvelope(f *testing.F) {
	f.Add(envelope{}.encode()[envelopeHeader:])
	f.Add(envelope{term: 9, commands: []command{{1, 2, []byte("one")}, {3, 4, nil}}}.encode()[envelopeHeader:])
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := decodeEnvelope(body); err != nil && !errors.Is(err, errEnvelope) {
			t.Errorf("undeclared error %v", err)
		}
		// With a right checksum the fuzzer gets to the fields behind it.
		b := append(make([]byte, envelopeHeader), body...)
		b[0] = envelopeVersion
		binary.LittleEndian.PutUint32(b[1:], crc32.Checksum(body, crcTable))
		e, err := decodeEnvelope(b)
		if err != nil {
			if !errors.Is(err, errEnvelope) {
				t.Errorf("undeclared error %v", err)
			}
			return
		}
		again, err := decodeEnvelope(e.encode())
		if err != nil || again.term != e.term || len(again.commands) != len(e.commands) {
			t.Errorf("%v, then %v: %v", e, again, err)
		}
	})
}
