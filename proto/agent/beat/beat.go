// Package beat is what agents and control nodes agree on about heartbeats: one
// datagram from the agent and one in answer, for a fraction of what the same costs
// through a gRPC stream. What a heartbeat means, and what follows from silence,
// is theirs. DESIGN.md says why it is safe, and what it costs.
package beat

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"time"
)

const (
	// KeySize is the length of a session's key.
	KeySize = sha256.Size
	// DatagramMax is the length of the longest datagram.
	DatagramMax = answerSize

	macSize    = 16
	beatSize   = 1 + 8 + 8 + 8 + macSize
	answerSize = 1 + 8 + 8 + 8 + 1 + 4 + macSize
)

// What a datagram begins with. The two differ, so that nothing can be reflected.
const (
	isBeat   = 'b'
	isAnswer = 'a'
)

// quorumFlag of an answer.
const quorumFlag = 1

// Errors of datagrams, which anybody can send.
var (
	ErrForm   = errors.New("not a heartbeat")
	ErrForged = errors.New("not made with the session's key")
)

// Beat is what an agent says.
type Beat struct {
	// Sequence grows with each one of a session.
	Sequence uint64
	// Clock is what the agent's own clock says.
	Clock int64
}

// Answer is what the control node says to it.
type Answer struct {
	Beat // that it answers
	// Quorum: the control node leads, or hears a leader, since it has had the beat.
	Quorum bool
	// Interval is that of the beats to come.
	Interval time.Duration
}

// NewKey makes a session's key.
func NewKey() []byte {
	key := make([]byte, KeySize)
	_, _ = rand.Read(key) // it never fails
	return key
}

// Seal makes and checks the datagrams of one session. It allocates nothing, and
// is for one goroutine at a time.
type Seal struct {
	session uint64
	mac     hash.Hash
	sum     [sha256.Size]byte
}

// NewSeal is for the session of this number and key.
func NewSeal(session uint64, key []byte) *Seal {
	return &Seal{session: session, mac: hmac.New(sha256.New, key)}
}

// Session is the number of the session that a beat claims to be of.
func Session(datagram []byte) (uint64, error) {
	if len(datagram) != beatSize || datagram[0] != isBeat {
		return 0, ErrForm
	}
	return binary.BigEndian.Uint64(datagram[1:]), nil
}

// Beat appends a beat to b.
func (s *Seal) Beat(b []byte, beat Beat) []byte {
	begin := len(b)
	b = s.head(b, isBeat, beat)
	return s.sign(b, begin)
}

// OpenBeat reads a beat.
func (s *Seal) OpenBeat(datagram []byte) (Beat, error) {
	if len(datagram) != beatSize {
		return Beat{}, ErrForm
	}
	return s.open(datagram, isBeat)
}

// Answer appends an answer to b.
func (s *Seal) Answer(b []byte, answer Answer) []byte {
	begin := len(b)
	b = s.head(b, isAnswer, answer.Beat)
	flags := byte(0)
	if answer.Quorum {
		flags |= quorumFlag
	}
	b = append(b, flags)
	b = binary.BigEndian.AppendUint32(b, uint32(answer.Interval.Milliseconds()))
	return s.sign(b, begin)
}

// OpenAnswer reads an answer.
func (s *Seal) OpenAnswer(datagram []byte) (Answer, error) {
	if len(datagram) != answerSize {
		return Answer{}, ErrForm
	}
	beat, err := s.open(datagram, isAnswer)
	if err != nil {
		return Answer{}, err
	}
	rest := datagram[1+8+8+8:]
	return Answer{Beat: beat, Quorum: rest[0]&quorumFlag != 0, Interval: time.Duration(binary.BigEndian.Uint32(rest[1:])) * time.Millisecond}, nil
}

func (s *Seal) head(b []byte, kind byte, beat Beat) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint64(b, s.session)
	b = binary.BigEndian.AppendUint64(b, beat.Sequence)
	return binary.BigEndian.AppendUint64(b, uint64(beat.Clock))
}

func (s *Seal) sign(b []byte, begin int) []byte { return append(b, s.sumOf(b[begin:])...) }

func (s *Seal) sumOf(message []byte) []byte {
	s.mac.Reset()
	s.mac.Write(message)
	return s.mac.Sum(s.sum[:0])[:macSize]
}

func (s *Seal) open(datagram []byte, kind byte) (Beat, error) {
	message, mac := datagram[:len(datagram)-macSize], datagram[len(datagram)-macSize:]
	if message[0] != kind || binary.BigEndian.Uint64(message[1:]) != s.session {
		return Beat{}, ErrForm
	}
	if !hmac.Equal(s.sumOf(message), mac) {
		return Beat{}, ErrForged
	}
	return Beat{Sequence: binary.BigEndian.Uint64(message[9:]), Clock: int64(binary.BigEndian.Uint64(message[17:]))}, nil
}
