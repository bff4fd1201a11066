package control

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/control/operator"
	"github.com/musterhq/muster/control/pki"
	"github.com/musterhq/muster/control/store"
)

const tokenPrefix = "token/"

// tokenRecord is a join token as the cluster keeps it: who holds a copy of the
// data can't join with it.
type tokenRecord struct {
	Role    identity.Role     `json:"role"`
	Hash    [sha256.Size]byte `json:"hash"`
	Created int64             `json:"created"` // Unix seconds
}

// tokens keeps the join tokens in the replicated state.
type tokens struct {
	store     *store.Store
	authority *pki.Authority
}

func (t *tokens) Create(ctx context.Context, role string) (string, error) {
	token := t.authority.Token(identity.Role(role))
	record, err := json.Marshal(tokenRecord{Role: token.Role, Hash: token.SecretHash(), Created: time.Now().Unix()})
	if err != nil {
		return "", err
	}
	if _, err := t.store.System().Create(ctx, tokenPrefix+token.ID, record); err != nil {
		return "", fmt.Errorf("keep the token: %w", err)
	}
	return token.String(), nil
}

func (t *tokens) List(ctx context.Context) ([]operator.Token, error) {
	if err := t.store.ReadBarrier(ctx); err != nil {
		return nil, err
	}
	var list []operator.Token
	for _, item := range t.store.System().List(tokenPrefix) {
		var record tokenRecord
		if err := json.Unmarshal(item.Value, &record); err != nil {
			return nil, fmt.Errorf("record %s: %w", item.Key, err)
		}
		_, id, _ := strings.Cut(item.Key, tokenPrefix)
		list = append(list, operator.Token{ID: id, Role: string(record.Role), Created: record.Created})
	}
	return list, nil
}

func (t *tokens) Delete(ctx context.Context, id string) error {
	err := t.store.System().Delete(ctx, tokenPrefix+id, 0)
	if errors.Is(err, store.ErrNotFound) {
		return operator.ErrNoToken
	}
	return err
}

// Check says whether a token admits a machine in a role (pki.Tokens).
func (t *tokens) Check(ctx context.Context, role identity.Role, id string, hash [sha256.Size]byte) error {
	if err := t.store.ReadBarrier(ctx); err != nil {
		return err
	}
	value, _, err := t.store.System().Get(tokenPrefix + id)
	if errors.Is(err, store.ErrNotFound) {
		return pki.ErrTokenUnknown
	}
	if err != nil {
		return err
	}
	var record tokenRecord
	if err := json.Unmarshal(value, &record); err != nil {
		return fmt.Errorf("record %s%s: %w", tokenPrefix, id, err)
	}
	if record.Role != role || !identity.SecretMatches(record.Hash, hash) {
		return pki.ErrTokenUnknown
	}
	return nil
}
