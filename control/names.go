package control

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/control/pki"
	"github.com/musterhq/muster/control/store"
)

const namePrefix = "name/"

// nameRecord says which machine has a name.
type nameRecord struct {
	Role identity.Role     `json:"role"`
	Key  [sha256.Size]byte `json:"key"` // SHA-256 of the public key
	// Next is the key of the certificate that was last renewed. Whether the
	// machine has heard of that is not known, so either key is its own.
	Next [sha256.Size]byte `json:"next,omitzero"`
}

func (r *nameRecord) has(key [sha256.Size]byte) bool {
	return key == r.Key || key == r.Next && r.Next != [sha256.Size]byte{}
}

// names gives each node name to one machine (pki.Names). A name is free again
// once its node is no longer part of the cluster: a compute node when its Node
// has been deleted, a control node when it was removed from the configuration.
type names struct {
	store *store.Store
	// member says whether a control node of this name is configured.
	member func(name string) bool
	// read holds each record as it was last read, by name, with its revision: every
	// session asks once a second.
	read sync.Map
}

type readRecord struct {
	nameRecord
	revision uint64
}

func (n *names) Claim(ctx context.Context, role identity.Role, name string, key [sha256.Size]byte) error {
	record, err := json.Marshal(nameRecord{Role: role, Key: key})
	if err != nil {
		return err
	}
	system := n.store.System()
	if _, err = system.Create(ctx, namePrefix+name, record); !errors.Is(err, store.ErrExists) {
		return err
	}
	holder, revision, err := n.find(name)
	if err != nil {
		return err
	}
	if holder.Role == role && holder.has(key) {
		return nil
	}
	if held, err := n.held(ctx, holder.Role, name); err != nil {
		return err
	} else if held {
		return pki.ErrNameTaken
	}
	if _, err = system.Update(ctx, namePrefix+name, record, revision); errors.Is(err, store.ErrConflict) {
		return pki.ErrNameTaken
	}
	return err
}

// held says whether a node of this name is part of the cluster.
func (n *names) held(ctx context.Context, role identity.Role, name string) (bool, error) {
	if role == identity.Server {
		return n.member(name), nil
	}
	_, _, err := n.store.Table(store.Nodes).GetItem("", name)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Renew lets a node have a certificate for another key. A compute node whose
// Node was deleted may, unless another machine has taken its name since:
// deleting it does not bar the machine, it registers anew.
func (n *names) Renew(ctx context.Context, role identity.Role, name string, key, next [sha256.Size]byte) error {
	if role == identity.Server {
		if !n.member(name) {
			return pki.ErrRemoved
		}
		return nil
	}
	if err := n.store.ReadBarrier(ctx); err != nil {
		return err
	}
	holder, revision, err := n.find(name)
	if err != nil {
		return err
	}
	if holder.Role != role || !holder.has(key) {
		return pki.ErrRemoved
	}
	record, err := json.Marshal(nameRecord{Role: role, Key: key, Next: next})
	if err != nil {
		return err
	}
	_, err = n.store.System().Update(ctx, namePrefix+name, record, revision)
	return err
}

// Keys are those of the control node that has the name from a token, as far as
// this replica knows.
func (n *names) Keys(name string) (keys [][sha256.Size]byte) {
	holder, _, err := n.find(name)
	if err != nil || holder.Role != identity.Server {
		return nil
	}
	keys = append(keys, holder.Key)
	if holder.Next != [sha256.Size]byte{} {
		keys = append(keys, holder.Next)
	}
	return keys
}

// Owns says whether the compute node with this key has the name, as far as this
// replica knows.
func (n *names) Owns(name string, key [sha256.Size]byte) bool {
	holder, _, err := n.find(name)
	return err == nil && holder.Role == identity.Agent && holder.has(key)
}

func (n *names) find(name string) (holder nameRecord, revision uint64, err error) {
	value, revision, err := n.store.System().Get(namePrefix + name)
	if err != nil {
		return holder, 0, err
	}
	if known, ok := n.read.Load(name); ok && known.(readRecord).revision == revision {
		return known.(readRecord).nameRecord, revision, nil
	}
	if err := json.Unmarshal(value, &holder); err != nil {
		return holder, 0, fmt.Errorf("record %s%s: %w", namePrefix, name, err)
	}
	n.read.Store(name, readRecord{holder, revision})
	return holder, revision, nil
}
