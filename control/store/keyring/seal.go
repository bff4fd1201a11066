package keyring

import (
	"bytes"
	"encoding/hex"
)

// A sealed value:
//
//	magic   4 bytes; the first, 0, begins no protobuf message and no JSON
//	key     8 bytes, the key's ID
//	nonce   12 bytes, random
//	text    encrypted with AES-256-GCM, and its tag of 16 bytes
//
// The associated data is the name that the value is stored under: a value that
// somebody moved to another name does not open. Random nonces are safe for 2^32
// values under one key.
var magic = []byte{0, 'M', 'S', 1}

const headBytes = 4 + idBytes

// Overhead is how many bytes longer than its text a sealed value is.
const Overhead = headBytes + 12 + 16

// Seal encrypts a value that is to be stored under name.
func (r *Ring) Seal(name string, text []byte) []byte {
	out := make([]byte, 0, len(text)+Overhead)
	out = append(out, magic...)
	out, _ = hex.AppendDecode(out, []byte(r.primary))
	return r.ciphers[string(out[len(magic):])].Seal(out, nil, text, []byte(name))
}

// Open decrypts what Seal made for the same name: ErrNoKey, ErrDamaged.
func (r *Ring) Open(name string, sealed []byte) ([]byte, error) {
	if !Sealed(sealed) {
		return nil, ErrDamaged
	}
	aead := r.ciphers[string(sealed[len(magic):headBytes])]
	if aead == nil {
		return nil, ErrNoKey
	}
	text, err := aead.Open(make([]byte, 0, max(0, len(sealed)-Overhead)), nil, sealed[headBytes:], []byte(name))
	if err != nil {
		return nil, ErrDamaged
	}
	return text, nil
}

// Sealed says whether a stored value is sealed.
func Sealed(value []byte) bool { return len(value) >= headBytes && bytes.HasPrefix(value, magic) }

// KeyID is the key that a sealed value was sealed with.
func KeyID(sealed []byte) string { return hex.EncodeToString(sealed[len(magic):headBytes]) }
