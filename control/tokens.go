package control

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/musterhq/muster/consensus/identity"
	"github.com/musterhq/muster/control/operator"
	"github.com/musterhq/muster/control/pki"
	"github.com/musterhq/muster/control/store"
)

const tokenPrefix = "token/"

// apiRole is the role of tokens that admit to the Kubernetes API.
const apiRole = "api"

// apiTokenPrefix opens the bearer tokens that this cluster gave out:
// muster-api-<id>-<secret>.
const apiTokenPrefix = "muster-api-"

// tokenRecord is a token as the cluster keeps it: who holds a copy of the data
// can't use it.
type tokenRecord struct {
	Role    string            `json:"role"`
	Hash    [sha256.Size]byte `json:"hash"`
	User    string            `json:"user,omitempty"`
	Groups  []string          `json:"groups,omitempty"`
	Created int64             `json:"created"` // Unix seconds
}

// tokens keeps join tokens and bearer tokens in the replicated state.
type tokens struct {
	store     *store.Store
	authority *pki.Authority
}

func (t *tokens) Create(ctx context.Context, token operator.Token) (string, error) {
	// A bearer token is made like the others; only its printed form differs.
	made := t.authority.Token(identity.Role(token.Role))
	text := made.String()
	if token.Role == apiRole {
		text = apiTokenPrefix + made.ID + "-" + made.Secret
	}
	record, err := json.Marshal(tokenRecord{
		Role: token.Role, Hash: made.SecretHash(), User: token.User, Groups: token.Groups, Created: time.Now().Unix(),
	})
	if err != nil {
		return "", err
	}
	if _, err := t.store.System().Create(ctx, tokenPrefix+made.ID, record); err != nil {
		return "", fmt.Errorf("keep the token: %w", err)
	}
	return text, nil
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
		list = append(list, operator.Token{ID: id, Role: record.Role, User: record.User, Groups: record.Groups, Created: record.Created})
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
	_, err := t.find(string(role), id, hash)
	return err
}

// Lookup says who the bearer of an API token is (auth.Tokens), from this node's
// replica: a token that was revoked a moment ago may still pass.
func (t *tokens) Lookup(_ context.Context, token string) (user.Info, bool, error) {
	rest, ours := strings.CutPrefix(token, apiTokenPrefix)
	id, secret, whole := strings.Cut(rest, "-")
	if !ours || !whole {
		return nil, false, nil
	}
	record, err := t.find(apiRole, id, identity.Token{Secret: secret}.SecretHash())
	if errors.Is(err, pki.ErrTokenUnknown) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return &user.DefaultInfo{Name: record.User, Groups: record.Groups}, true, nil
}

// find answers pki.ErrTokenUnknown unless there is such a token.
func (t *tokens) find(role, id string, hash [sha256.Size]byte) (tokenRecord, error) {
	var record tokenRecord
	value, _, err := t.store.System().Get(tokenPrefix + id)
	if errors.Is(err, store.ErrNotFound) {
		return record, pki.ErrTokenUnknown
	}
	if err != nil {
		return record, err
	}
	if err := json.Unmarshal(value, &record); err != nil {
		return record, fmt.Errorf("record %s%s: %w", tokenPrefix, id, err)
	}
	if record.Role != role || !identity.SecretMatches(record.Hash, hash) {
		return record, pki.ErrTokenUnknown
	}
	return record, nil
}
