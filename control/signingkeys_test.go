package control

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/musterhq/muster/control/operator"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/keyring"
	"github.com/musterhq/muster/control/store/storetest"
)

func newSigningKeys(t *testing.T, s *store.Store, founding *ecdsa.PrivateKey, now *time.Time) *signingKeys {
	t.Helper()
	root, err := keyring.NewRoot([]byte("the CA's key"))
	if err != nil {
		t.Fatal(err)
	}
	return &signingKeys{store: s, root: root, founding: founding, now: func() time.Time { return *now }}
}

func TestSigningKeysArePublishedBeforeTheySign(t *testing.T) {
	founding, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, ctx, now := storetest.New(t), t.Context(), time.Unix(1_000_000, 0)
	// Two control nodes over one state.
	here, there := newSigningKeys(t, s, founding, &now), newSigningKeys(t, s, founding, &now)
	signs := func(want string, verifying int) {
		t.Helper()
		for _, node := range []*signingKeys{here, there} {
			keys, err := node.Keys()
			if err != nil {
				t.Fatal(err)
			}
			id, err := keyID(&keys.Signing.PublicKey)
			if err != nil || id != want || len(keys.Verifying) != verifying {
				t.Errorf("%s signs and %d verify, %v; want %s and %d", id, len(keys.Verifying), err, want, verifying)
			}
			if again, _ := node.Keys(); again != keys {
				t.Error("the keys have another address, although they are the same")
			}
		}
	}
	first, err := keyID(&founding.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	signs(first, 1)
	if err := here.Remove(ctx, first); !errors.Is(err, operator.ErrLastKey) {
		t.Errorf("removing the only key: %v, want %v", err, operator.ErrLastKey)
	}
	second, err := here.Rotate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	signs(first, 2)
	now = now.Add(59 * time.Minute)
	signs(first, 2)
	now = now.Add(time.Minute)
	signs(second, 2)
	third, err := there.Rotate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	signs(second, 3)
	list, err := here.List(ctx)
	if err != nil || len(list) != 3 || list[0].ID != first || !list[1].Signs || list[2].ID != third || list[2].From != now.Add(time.Hour) {
		t.Errorf("listed %+v, %v", list, err)
	}
	if err := here.Remove(ctx, third); !errors.Is(err, operator.ErrNewestKey) {
		t.Errorf("removing the newest key: %v, want %v", err, operator.ErrNewestKey)
	}
	if err := here.Remove(ctx, "x"); !errors.Is(err, operator.ErrNoKey) {
		t.Errorf("removing a key that is not there: %v, want %v", err, operator.ErrNoKey)
	}
	// A key that was found out is removed at once; the next signs at once.
	for _, id := range []string{first, second} {
		if err := here.Remove(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	signs(third, 1)

	state, err := s.Raw().Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var written bytes.Buffer
	if err := state(&written); err != nil {
		t.Fatal(err)
	}
	keys, err := here.Keys()
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := keys.Signing.Bytes()
	if err != nil || bytes.Contains(written.Bytes(), scalar) {
		t.Errorf("the state holds the key as it is, %v", err)
	}
}
