package store

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterhq/muster/control/store/keyring"
	"github.com/musterhq/muster/fsm/kv"
	storagev1 "github.com/musterhq/muster/proto/storage/v1"
)

// ErrKeyInUse says that values are sealed with a key that was to be removed.
var ErrKeyInUse = errors.New("values are still sealed with the key: rewrite them first")

// Keyring is the cluster's keyring for those who look after it. Its writes go
// through the log, so any control node may carry them out.
type Keyring struct{ store *Store }

// Keyring gives access to the keyring.
func (s *Store) Keyring() Keyring { return Keyring{store: s} }

// KeyUse is a key, and how many values are sealed with it.
type KeyUse struct {
	keyring.Key
	Values int
}

// Ensure makes the keyring of a cluster that has none.
func (k Keyring) Ensure(ctx context.Context) error {
	if _, _, err := k.store.ring(); !errors.Is(err, ErrNoKeyring) || k.store.sealer == nil {
		return err
	}
	record, err := keyring.New(time.Now()).Record(k.store.sealer.root)
	if err != nil {
		return err
	}
	if _, err := k.store.System().Create(ctx, keyringName, record); err != nil && !errors.Is(err, ErrExists) {
		return err
	}
	return nil
}

// List returns the keys, oldest first, and how many values of sealed kinds are
// in the clear because they were written before.
func (k Keyring) List(ctx context.Context) (keys []KeyUse, clear int, err error) {
	if err := k.store.ReadBarrier(ctx); err != nil {
		return nil, 0, err
	}
	ring, _, err := k.store.ring()
	if err != nil {
		return nil, 0, err
	}
	use, clear := k.use()
	for _, key := range ring.Keys() {
		keys = append(keys, KeyUse{key, use[key.ID]})
	}
	return keys, clear, nil
}

// use counts the values by the key that they are sealed with.
func (k Keyring) use() (use map[string]int, clear int) {
	use = map[string]int{}
	k.each(func(_ *Spec, item *kv.Item) {
		if keyring.Sealed(item.Value) {
			use[keyring.KeyID(item.Value)]++
		} else {
			clear++
		}
	})
	return use, clear
}

// each visits all values of sealed kinds, as they are in the log.
func (k Keyring) each(visit func(*Spec, *kv.Item)) {
	view := k.store.View()
	for _, spec := range Specs {
		if !spec.Sealed {
			continue
		}
		for item := range view.Range(spec.Prefix(""), "") {
			visit(spec, item)
		}
	}
}

// Primary is the ID of the key that this replica seals with.
func (k Keyring) Primary() (string, error) {
	ring, _, err := k.store.ring()
	if err != nil {
		return "", err
	}
	return ring.Primary(), nil
}

// Rotate makes a new primary key and returns its ID. From then on nothing is
// sealed with another one, on any control node; what was is for Rewrite.
func (k Keyring) Rotate(ctx context.Context) (id string, err error) {
	err = k.change(ctx, func(ring *keyring.Ring) (*keyring.Ring, error) {
		ring = ring.Rotate(time.Now())
		id = ring.Primary()
		return ring, nil
	})
	return id, err
}

// Remove takes a key away for good: ErrKeyInUse while a value needs it, and
// keyring's ErrPrimary and ErrNoKey.
func (k Keyring) Remove(ctx context.Context, id string) error {
	return k.change(ctx, func(ring *keyring.Ring) (*keyring.Ring, error) {
		// Nobody seals with a key once the log has a newer one, so what is not
		// in use behind the barrier will not be.
		without, err := ring.Remove(id)
		if err != nil {
			return nil, err
		}
		if use, _ := k.use(); use[id] > 0 {
			return nil, fmt.Errorf("%w: %d values", ErrKeyInUse, use[id])
		}
		return without, nil
	})
}

// Adopt takes over the keys of another ring, so that what they sealed can be
// read here.
func (k Keyring) Adopt(ctx context.Context, other *keyring.Ring) error {
	return k.change(ctx, func(ring *keyring.Ring) (*keyring.Ring, error) { return ring.Adopt(other), nil })
}

// change replaces the ring by what plan makes of the newest one.
func (k Keyring) change(ctx context.Context, plan func(*keyring.Ring) (*keyring.Ring, error)) error {
	for {
		if err := k.store.ReadBarrier(ctx); err != nil {
			return err
		}
		ring, revision, err := k.store.ring()
		if err != nil {
			return err
		}
		if ring, err = plan(ring); err != nil {
			return err
		}
		record, err := ring.Record(k.store.sealer.root)
		if err != nil {
			return err
		}
		if _, err := k.store.System().Update(ctx, keyringName, record, revision); !errors.Is(err, ErrConflict) {
			return err
		}
	}
}

// rewritesInFlight bounds what a rewrite asks of the log at a time, so that
// users' writes go on beside it.
const rewritesInFlight = 8

// Rewrite seals with the primary key all values that are not, and tells after
// each how many of how many are done; progress may be called from several
// goroutines. Watchers see an object that was rewritten as modified. What is
// written meanwhile is sealed with the primary key already, so when Rewrite
// has ended without an error no other key is in use.
func (k Keyring) Rewrite(ctx context.Context, progress func(done, total int)) error {
	if err := k.store.ReadBarrier(ctx); err != nil {
		return err
	}
	ring, _, err := k.store.ring()
	if err != nil {
		return err
	}
	type place struct {
		spec *Spec
		key  string
	}
	var places []place
	k.each(func(spec *Spec, item *kv.Item) {
		if !sealedWith(item, ring.Primary()) {
			places = append(places, place{spec, item.Key})
		}
	})
	var done atomic.Int64
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(rewritesInFlight)
	for _, p := range places {
		if groupCtx.Err() != nil {
			break
		}
		group.Go(func() error {
			if err := k.rewrite(groupCtx, p.spec, p.key); err != nil {
				return fmt.Errorf("rewrite %s: %w", p.key, err)
			}
			progress(int(done.Add(1)), len(places))
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

func sealedWith(item *kv.Item, id string) bool {
	return keyring.Sealed(item.Value) && keyring.KeyID(item.Value) == id
}

// stored is attributes as they are sent to the log.
func stored(from kv.Attrs) []*storagev1.Attr {
	list := make([]*storagev1.Attr, 0, len(from))
	for _, a := range from {
		list = append(list, &storagev1.Attr{Name: a.Name, Value: a.Value})
	}
	return list
}

// rewrite seals one value anew, whoever else writes it.
func (k Keyring) rewrite(ctx context.Context, spec *Spec, key string) error {
	for {
		item, opened, _, err := k.store.newest(spec, key)
		if err != nil {
			return err
		}
		ring, _, err := k.store.ring()
		if err != nil {
			return err
		}
		if item == nil || sealedWith(item, ring.Primary()) {
			return nil
		}
		put := &storagev1.Put{Key: []byte(key), Value: opened.Value, Labels: stored(item.Labels), Fields: stored(item.Fields)}
		result, err := k.store.Table(spec).commit(ctx, &storagev1.Guard{Key: put.Key, Revision: item.Revision}, put)
		if err != nil {
			return err
		}
		if result.Applied {
			return nil
		}
	}
}
