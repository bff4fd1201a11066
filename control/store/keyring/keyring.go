// Package keyring is the keys that keep values secret where they lie: in the
// log, in snapshots, in copies of them. A ring is kept in the replicated state
// itself, so that every replica that reads a value has read its key before, and
// its keys are wrapped by a root that is never there. Which values are sealed,
// and when keys change, is package store's business.
package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

var (
	// ErrNoKey says that a value was sealed with a key that the ring has not.
	ErrNoKey = errors.New("the key that it was sealed with is not in the cluster's keyring")
	// ErrDamaged says that a value is not what was sealed under its name.
	ErrDamaged = errors.New("the sealed value is damaged, or was moved here from elsewhere")
	// ErrPrimary says that a key seals new values, and so cannot be removed.
	ErrPrimary = errors.New("the key seals what is written now: rotate first")
)

const (
	keyBytes = 32 // AES-256
	idBytes  = 8
)

// Root wraps the keys of rings. Who has it and the state can read everything.
type Root struct{ key [keyBytes]byte }

// NewRoot derives a root from a secret that the control nodes share and never
// write to the state.
func NewRoot(secret []byte) (Root, error) {
	var root Root
	key, err := hkdf.Key(sha256.New, secret, nil, "muster keyring root v1", keyBytes)
	if err != nil {
		return root, fmt.Errorf("derive the keyring's root: %w", err)
	}
	copy(root.key[:], key)
	return root, nil
}

// Key is one key of a ring.
type Key struct {
	ID      string // hexadecimal
	Created time.Time
	Primary bool // seals what is written
}

// Ring is a set of keys, one of which seals new values. It does not change;
// its verbs return other rings.
type Ring struct {
	keys    []key
	primary string
	ciphers map[string]cipher.AEAD // by the raw bytes of the ID
}

type key struct {
	id      string
	created int64 // Unix seconds
	secret  []byte
}

// New returns a ring of one new key.
func New(now time.Time) *Ring { return (&Ring{}).Rotate(now) }

// Rotate returns the ring with a new key, which is the primary one from then on.
func (r *Ring) Rotate(now time.Time) *Ring {
	random := make([]byte, idBytes+keyBytes)
	rand.Read(random) // never fails
	added := key{id: hex.EncodeToString(random[:idBytes]), created: now.Unix(), secret: random[idBytes:]}
	return assemble(append(slices.Clone(r.keys), added), added.id)
}

// Adopt returns the ring with those keys of another that it has not, to open
// what was sealed with them.
func (r *Ring) Adopt(other *Ring) *Ring {
	keys := slices.Clone(r.keys)
	for _, k := range other.keys {
		if !r.has(k.id) {
			keys = append(keys, k)
		}
	}
	return assemble(keys, r.primary)
}

// Remove returns the ring without a key: ErrPrimary, ErrNoKey. What was sealed
// with it cannot be opened any more.
func (r *Ring) Remove(id string) (*Ring, error) {
	switch {
	case !r.has(id):
		return nil, ErrNoKey
	case id == r.primary:
		return nil, ErrPrimary
	}
	return assemble(slices.DeleteFunc(slices.Clone(r.keys), func(k key) bool { return k.id == id }), r.primary), nil
}

// Keys lists the ring's keys, oldest first.
func (r *Ring) Keys() []Key {
	list := make([]Key, 0, len(r.keys))
	for _, k := range r.keys {
		list = append(list, Key{ID: k.id, Created: time.Unix(k.created, 0), Primary: k.id == r.primary})
	}
	return list
}

// Secrets are the keys themselves, by ID, for rings whose keys do not seal.
func (r *Ring) Secrets() map[string][]byte {
	secrets := make(map[string][]byte, len(r.keys))
	for _, k := range r.keys {
		secrets[k.id] = k.secret
	}
	return secrets
}

// Primary is the ID of the key that seals new values.
func (r *Ring) Primary() string { return r.primary }

func (r *Ring) has(id string) bool {
	return slices.ContainsFunc(r.keys, func(k key) bool { return k.id == id })
}

func assemble(keys []key, primary string) *Ring {
	r := &Ring{keys: keys, primary: primary, ciphers: make(map[string]cipher.AEAD, len(keys))}
	for _, k := range keys {
		raw, _ := hex.DecodeString(k.id)
		r.ciphers[string(raw)] = newCipher(k.secret)
	}
	return r
}

func newCipher(secret []byte) cipher.AEAD {
	block, err := aes.NewCipher(secret)
	if err != nil {
		panic(err) // a key of another length: made here or checked by Parse
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// record is a ring as it is stored, JSON.
type record struct {
	Primary string       `json:"primary"`
	Keys    []wrappedKey `json:"keys"`
}

type wrappedKey struct {
	ID      string `json:"id"`
	Created int64  `json:"created"`
	Wrapped []byte `json:"wrapped"` // by the root, with the ID as associated data
}

// Record is the ring as it may be stored: its keys are wrapped by root.
func (r *Ring) Record(root Root) ([]byte, error) {
	out := record{Primary: r.primary}
	wrap := newCipher(root.key[:])
	for _, k := range r.keys {
		out.Keys = append(out.Keys, wrappedKey{ID: k.id, Created: k.created, Wrapped: wrap.Seal(nil, nil, k.secret, []byte(k.id))})
	}
	return json.Marshal(out)
}

// Parse reads a record.
func Parse(root Root, stored []byte) (*Ring, error) {
	var in record
	if err := json.Unmarshal(stored, &in); err != nil {
		return nil, fmt.Errorf("keyring: %w", err)
	}
	wrap := newCipher(root.key[:])
	var keys []key
	for _, k := range in.Keys {
		secret, err := wrap.Open(nil, nil, k.Wrapped, []byte(k.ID))
		if err != nil {
			return nil, fmt.Errorf("keyring: key %q was wrapped by the root of another cluster, or is damaged", k.ID)
		}
		if raw, err := hex.DecodeString(k.ID); err != nil || len(raw) != idBytes || len(secret) != keyBytes {
			return nil, fmt.Errorf("keyring: key %q is none of this version", k.ID)
		}
		keys = append(keys, key{id: k.ID, created: k.Created, secret: secret})
	}
	ring := assemble(keys, in.Primary)
	if !ring.has(in.Primary) {
		return nil, fmt.Errorf("keyring: the primary key %q is missing", in.Primary)
	}
	return ring, nil
}
