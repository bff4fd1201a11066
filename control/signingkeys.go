package control

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/musterhq/muster/control/operator"
	"github.com/musterhq/muster/control/serviceaccount"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/keyring"
)

// signingName is where the keys are that tokens are signed with beside the
// founding one, among Muster's own.
const signingName = "signing-keys"

// publishedFor is how long a new key is accepted and published before it signs:
// relying parties may keep the published keys for an hour.
const publishedFor = time.Hour

// signingKeys are the keys of service accounts' tokens: the one that the cluster
// was founded with, which control nodes hold in a file, and later ones, which
// are in the state as the keyring is, wrapped by the same root. The newest that
// has been published for long enough signs, all verify.
type signingKeys struct {
	store    *store.Store
	root     keyring.Root
	founding *ecdsa.PrivateKey
	now      func() time.Time

	mu    sync.Mutex
	known signingState
}

// signingState is what was made of the record last.
type signingState struct {
	revision uint64
	list     []signingKey // oldest first
	keys     *serviceaccount.Keys
	signing  string
}

type signingKey struct {
	id      string // kid in tokens
	ringID  string // "": the founding one
	created time.Time
	private *ecdsa.PrivateKey
}

// signingRecord is what is stored, JSON.
type signingRecord struct {
	Ring json.RawMessage `json:"ring"` // a keyring's record; its keys are P-256 scalars
	// WithoutFounding: tokens of the founding key are not accepted any more.
	WithoutFounding bool `json:"withoutFounding,omitempty"`
}

// Keys is serviceaccount.Config.Keys.
func (k *signingKeys) Keys() (*serviceaccount.Keys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	state, err := k.current()
	if err != nil {
		return nil, err
	}
	return state.keys, nil
}

// current reads the record, if it is another, and picks the key that signs. k.mu
// is held.
func (k *signingKeys) current() (*signingState, error) {
	value, revision, err := k.store.System().Get(signingName)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if k.known.list == nil || k.known.revision != revision {
		record, ring, err := k.parse(value)
		if err != nil {
			return nil, err
		}
		list, err := k.listed(record, ring)
		if err != nil {
			return nil, err
		}
		k.known = signingState{revision: revision, list: list}
	}
	signing := pickSigning(k.known.list, k.now())
	if k.known.keys == nil || k.known.signing != signing.id {
		keys := &serviceaccount.Keys{Signing: signing.private}
		for _, key := range k.known.list {
			keys.Verifying = append(keys.Verifying, &key.private.PublicKey)
		}
		k.known.keys, k.known.signing = keys, signing.id
	}
	return &k.known, nil
}

// pickSigning is the newest key that has been published for long enough, else
// the oldest. list is not empty.
func pickSigning(list []signingKey, now time.Time) signingKey {
	signing := list[0]
	for _, key := range list {
		if !now.Before(key.created.Add(publishedFor)) {
			signing = key
		}
	}
	return signing
}

func (k *signingKeys) parse(value []byte) (signingRecord, *keyring.Ring, error) {
	var record signingRecord
	if value == nil {
		return record, nil, nil
	}
	if err := json.Unmarshal(value, &record); err != nil {
		return record, nil, fmt.Errorf("signing keys: %w", err)
	}
	ring, err := keyring.Parse(k.root, record.Ring)
	return record, ring, err
}

func (k *signingKeys) listed(record signingRecord, ring *keyring.Ring) ([]signingKey, error) {
	var list []signingKey
	if !record.WithoutFounding {
		id, err := keyID(&k.founding.PublicKey)
		if err != nil {
			return nil, err
		}
		list = append(list, signingKey{id: id, private: k.founding})
	}
	if ring == nil {
		return list, nil
	}
	secrets := ring.Secrets()
	for _, key := range ring.Keys() {
		private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), secrets[key.ID])
		if err != nil {
			return nil, fmt.Errorf("signing key %s: %w", key.ID, err)
		}
		id, err := keyID(&private.PublicKey)
		if err != nil {
			return nil, err
		}
		list = append(list, signingKey{id: id, ringID: key.ID, created: key.Created, private: private})
	}
	return list, nil
}

// keyID is what upstream calls a key in tokens and in what it publishes.
func keyID(public *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// List implements operator.SigningKeys.
func (k *signingKeys) List(ctx context.Context) ([]operator.SigningKey, error) {
	if err := k.store.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	state, err := k.current()
	if err != nil {
		return nil, err
	}
	var list []operator.SigningKey
	for _, key := range state.list {
		shown := operator.SigningKey{ID: key.id, Created: key.created, Signs: key.id == state.signing}
		if from := key.created.Add(publishedFor); from.After(k.now()) {
			shown.From = from
		}
		list = append(list, shown)
	}
	return list, nil
}

// Rotate makes a key and returns its ID.
func (k *signingKeys) Rotate(ctx context.Context) (id string, err error) {
	err = k.change(ctx, func(record *signingRecord, ring *keyring.Ring) (*keyring.Ring, error) {
		for {
			next := keyring.New(k.now())
			if ring != nil {
				next = ring.Rotate(k.now())
			}
			private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), next.Secrets()[next.Primary()])
			if err != nil {
				continue // one number in 2^32 is no key
			}
			id, err = keyID(&private.PublicKey)
			return next, err
		}
	})
	return id, err
}

// Remove has tokens of a key refused: operator.ErrNoKey, operator.ErrLastKey.
func (k *signingKeys) Remove(ctx context.Context, id string) error {
	return k.change(ctx, func(record *signingRecord, ring *keyring.Ring) (*keyring.Ring, error) {
		list, err := k.listed(*record, ring)
		if err != nil {
			return nil, err
		}
		for i, key := range list {
			switch {
			case key.id != id:
			case len(list) == 1:
				return nil, operator.ErrLastKey
			case key.ringID == "":
				record.WithoutFounding = true
				return ring, nil
			case i == len(list)-1:
				return nil, operator.ErrNewestKey
			default:
				return ring.Remove(key.ringID)
			}
		}
		return nil, operator.ErrNoKey
	})
}

// change replaces the record by what plan makes of the newest one. ring is nil
// while there is the founding key alone.
func (k *signingKeys) change(ctx context.Context, plan func(*signingRecord, *keyring.Ring) (*keyring.Ring, error)) error {
	for {
		if err := k.store.ReadBarrier(ctx); err != nil {
			return err
		}
		value, revision, err := k.store.System().Get(signingName)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		record, ring, err := k.parse(value)
		if err != nil {
			return err
		}
		if ring, err = plan(&record, ring); err != nil {
			return err
		}
		if record.Ring, err = ring.Record(k.root); err != nil {
			return err
		}
		if value, err = json.Marshal(record); err != nil {
			return err
		}
		if revision == 0 {
			_, err = k.store.System().Create(ctx, signingName, value)
		} else {
			_, err = k.store.System().Update(ctx, signingName, value, revision)
		}
		if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrExists) {
			return err
		}
	}
}
