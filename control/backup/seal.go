package backup

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	saltLen       = 16
	parametersLen = saltLen + 4
	sealedPiece   = 64 << 10   // of plain text
	iterationsMax = 10_000_000 // a damaged number must not keep the reader busy for ever
)

// iterations is what OWASP's Password Storage Cheat Sheet asks of
// PBKDF2-HMAC-SHA256. scrypt would cost an attacker more, and a new dependency.
// Tests have no time for it.
var iterations = 600_000

func gcm(passphrase, salt []byte, iterations int) (cipher.AEAD, error) {
	key, err := pbkdf2.Key(sha256.New, string(passphrase), salt, iterations, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// pieces numbers the sealed pieces. A key is used for one file only, as its
// salt is random, so no nonce comes twice.
type pieces struct {
	aead    cipher.AEAD
	opening []byte
	number  uint64
}

func (p *pieces) next(last bool) (nonce, additional []byte) {
	nonce = binary.BigEndian.AppendUint64(make([]byte, 4), p.number)
	p.number++
	additional = append([]byte(nil), p.opening...)
	if last {
		return nonce, append(additional, 1)
	}
	return nonce, append(additional, 0)
}

// sealer encrypts what is written to it.
type sealer struct {
	pieces
	to    io.Writer
	plain []byte
}

// newSealer adds its parameters to the opening.
func newSealer(opening []byte, to io.Writer, passphrase []byte) ([]byte, *sealer, error) {
	salt := make([]byte, saltLen)
	rand.Read(salt)
	opening = binary.BigEndian.AppendUint32(append(opening, salt...), uint32(iterations))
	aead, err := gcm(passphrase, salt, iterations)
	return opening, &sealer{pieces: pieces{aead: aead, opening: opening}, to: to}, err
}

func (s *sealer) Write(plain []byte) (int, error) {
	n := len(plain)
	for len(plain) > 0 {
		if len(s.plain) == sealedPiece { // more follows, so it is not the last
			if err := s.flush(false); err != nil {
				return 0, err
			}
		}
		take := min(len(plain), sealedPiece-len(s.plain))
		s.plain, plain = append(s.plain, plain[:take]...), plain[take:]
	}
	return n, nil
}

func (s *sealer) Close() error { return s.flush(true) }

func (s *sealer) flush(last bool) error {
	nonce, additional := s.next(last)
	_, err := s.to.Write(s.aead.Seal(nil, nonce, s.plain, additional))
	s.plain = s.plain[:0]
	return err
}

// unsealer decrypts what it reads. It hands out nothing that is not authentic.
type unsealer struct {
	pieces
	from interface {
		io.Reader
		Peek(int) ([]byte, error)
	}
	plain []byte
	last  bool
}

func newUnsealer(opening []byte, from interface {
	io.Reader
	Peek(int) ([]byte, error)
}, passphrase []byte) (*unsealer, error) {
	parameters := opening[len(opening)-parametersLen:]
	rounds := binary.BigEndian.Uint32(parameters[saltLen:])
	if rounds == 0 || rounds > iterationsMax {
		return nil, fmt.Errorf("%w: %d iterations", ErrCorrupt, rounds)
	}
	aead, err := gcm(passphrase, parameters[:saltLen], int(rounds))
	return &unsealer{pieces: pieces{aead: aead, opening: opening}, from: from}, err
}

func (u *unsealer) Read(into []byte) (int, error) {
	for len(u.plain) == 0 {
		if u.last {
			return 0, io.EOF
		}
		if err := u.open(); err != nil {
			return 0, err
		}
	}
	n := copy(into, u.plain)
	u.plain = u.plain[n:]
	return n, nil
}

func (u *unsealer) open() error {
	sealed := make([]byte, sealedPiece+u.aead.Overhead())
	n, err := io.ReadFull(u.from, sealed)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	_, err = u.from.Peek(1)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	u.last = err != nil
	first := u.number == 0
	nonce, additional := u.next(u.last)
	if u.plain, err = u.aead.Open(nil, nonce, sealed[:n], additional); err != nil {
		if first {
			return ErrPassphrase
		}
		return fmt.Errorf("%w: a part of it was changed or is missing", ErrCorrupt)
	}
	return nil
}
