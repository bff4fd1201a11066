package control

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/control/pki"
	"github.com/musterhq/muster/control/store"
)

const namePrefix = "name/"

// nameRecord says which machine has a name.
type nameRecord struct {
	Role identity.Role     `json:"role"`
	Key  [sha256.Size]byte `json:"key"` // SHA-256 of the public key
}

// names gives each node name to one machine (pki.Names). A name is free again
// once its node is no longer part of the cluster: a compute node when its Node
// has been deleted, a control node when it was removed from the configuration.
type names struct {
	store *store.Store
	// member says whether a control node of this name is configured.
	member func(name string) bool
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
	value, revision, err := system.Get(namePrefix + name)
	if err != nil {
		return err
	}
	var holder nameRecord
	if err := json.Unmarshal(value, &holder); err != nil {
		return fmt.Errorf("record %s%s: %w", namePrefix, name, err)
	}
	if holder.Key == key && holder.Role == role {
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

// Holds says whether a node may renew its certificate. A compute node whose
// Node was deleted may: deleting it does not bar the machine, it registers anew.
func (n *names) Holds(_ context.Context, role identity.Role, name string) error {
	if role == identity.Server && !n.member(name) {
		return pki.ErrRemoved
	}
	return nil
}
