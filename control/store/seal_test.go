package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/keyring"
	"github.com/musterhq/muster/control/store/storetest"
	"github.com/musterhq/muster/fsm"
	"github.com/musterhq/muster/fsm/kv"
)

// sealed is a kind whose values are encrypted.
var sealed = &store.Spec{
	Resource: schema.GroupResource{Group: "test", Resource: "sealed"}, Kind: corev1.SchemeGroupVersion.WithKind("Secret"), Namespaced: true,
	New:     func() store.Object { return &corev1.Secret{} },
	NewList: func() runtime.Object { return &corev1.SecretList{} },
	Fields: func(o store.Object) map[string]string {
		return map[string]string{"type": string(o.(*corev1.Secret).Type)}
	},
	Sealed: true,
}

func init() { store.Specs = append(store.Specs, sealed) }

const plaintext = "correct-horse-battery-staple"

func secret(name, value string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "uid", Labels: map[string]string{"app": "web"}},
		Data:       map[string][]byte{"password": []byte(value)}, Type: corev1.SecretTypeOpaque,
	}
}

func testRoot(t testing.TB, of string) keyring.Root {
	t.Helper()
	root, err := keyring.NewRoot([]byte(of))
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func openSealing(t testing.TB) (*store.Store, *storetest.Log, *fsm.Machine) {
	t.Helper()
	s, log, machine := storetest.Open(t)
	s = s.Sealing(testRoot(t, "the CA's key"))
	if err := s.Keyring().Ensure(context.Background()); err != nil {
		t.Fatal(err)
	}
	return s, log, machine
}

func secrets(s *store.Store) store.Typed[*corev1.Secret] { return store.Of[*corev1.Secret](s, sealed) }

func password(s *corev1.Secret) string { return string(s.Data["password"]) }

// What a replica keeps and writes to disk is what its snapshot holds.
func TestNoSealedValueIsInTheStateInTheClear(t *testing.T) {
	s, _, _ := openSealing(t)
	ctx := t.Context()
	cache := store.NewCache[*corev1.Secret](s, sealed, nil)
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- cache.Run(running) }()
	watch, err := secrets(s).Table().Watch(ctx, store.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	created, err := secrets(s).Create(ctx, secret("a", plaintext))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := secrets(s).Update(ctx, secret("a", plaintext+"!"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Txn(ctx, []store.Write{{Verb: store.Create, Spec: sealed, Object: secret("b", plaintext)}, {Verb: store.Check, Spec: sealed, Namespace: "default", Name: "a"}}); err != nil {
		t.Fatal(err)
	}
	state := savedState(t, s)
	if !bytes.Contains(state, []byte("sealed.test/default/a")) || bytes.Contains(state, []byte("horse")) {
		t.Error("the state holds the value in the clear, or not at all")
	}

	got, err := secrets(s).Get(ctx, "default", "a")
	if err != nil || password(got) != plaintext+"!" {
		t.Errorf("get: %v, %v", got, err)
	}
	list, revision, err := secrets(s).List(ctx, store.ListOptions{Namespace: "default"})
	if err != nil || len(list) != 2 || password(list[0]) != plaintext+"!" || password(list[1]) != plaintext {
		t.Errorf("list: %v, %v", list, err)
	}
	before := s.Revision()
	if _, err := secrets(s).Update(ctx, secret("a", plaintext+"!"), 0); err != nil || s.Revision() != before {
		t.Errorf("an update of nothing: revision %d, %v, want %d", s.Revision(), err, before)
	}
	if err := cache.WaitRevision(ctx, revision); err != nil {
		t.Fatal(err)
	}
	if got, ok := cache.Get("default", "b"); !ok || password(got) != plaintext {
		t.Errorf("cache: %v", got)
	}
	if gone, err := secrets(s).Delete(ctx, "default", "a", 0, created.UID); err != nil || password(gone) != plaintext+"!" {
		t.Errorf("delete: %v, %v", gone, err)
	}
	var told []string
	for len(told) < 4 {
		events, _, err := watch.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			obj, err := store.Decode(sealed, e.Item)
			if err != nil {
				t.Fatal(err)
			}
			told = append(told, fmt.Sprint(e.Type, " ", obj.GetName(), " ", password(obj.(*corev1.Secret))))
		}
	}
	if want := []string{"ADDED a " + plaintext, "MODIFIED a " + plaintext + "!", "ADDED b " + plaintext, "DELETED a " + plaintext + "!"}; fmt.Sprint(told) != fmt.Sprint(want) {
		t.Errorf("watch told %q, want %q", told, want)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("cache: %v", err)
	}
}

func TestWithoutAKeyringNothingIsWritten(t *testing.T) {
	s, log, _ := storetest.Open(t)
	s = s.Sealing(testRoot(t, "the CA's key"))
	if _, err := secrets(s).Create(t.Context(), secret("a", plaintext)); !errors.Is(err, store.ErrNoKeyring) || log.Proposals() != 0 {
		t.Errorf("got %v after %d proposals, want %v and none", err, log.Proposals(), store.ErrNoKeyring)
	}
}

func TestValuesFromBeforeTheirKindWasSealedAreRead(t *testing.T) {
	s, log, machine := storetest.Open(t)
	if _, err := secrets(s).Create(t.Context(), secret("a", plaintext)); err != nil {
		t.Fatal(err)
	}
	s = store.New(log, machine).Sealing(testRoot(t, "the CA's key"))
	if err := s.Keyring().Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := secrets(s).Get(t.Context(), "default", "a"); err != nil || password(got) != plaintext {
		t.Errorf("got %v, %v", got, err)
	}
	if _, clear, err := s.Keyring().List(t.Context()); err != nil || clear != 1 {
		t.Errorf("%d values in the clear, %v, want 1", clear, err)
	}
	if err := s.Keyring().Rewrite(t.Context(), func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(savedState(t, s), []byte("horse")) {
		t.Error("after a rewrite the value is in the clear")
	}
	if got, err := secrets(s).Get(t.Context(), "default", "a"); err != nil || password(got) != plaintext || got.Labels["app"] != "web" {
		t.Errorf("after a rewrite: %v, %v", got, err)
	}
	if page, err := secrets(s).Table().List(t.Context(), store.ListOptions{}); err != nil || page.Items[0].Fields.Get("type") != "Opaque" || page.Items[0].Labels.Get("app") != "web" {
		t.Errorf("after a rewrite what can be selected by is %v, %v", page.Items[0], err)
	}
}

// Between the look at an item and the look at the keyring the key of the one
// may go from the other.
func TestReadMeetsRemovalOfItsKey(t *testing.T) {
	s, _, machine := openSealing(t)
	ctx := t.Context()
	if _, err := secrets(s).Create(ctx, secret("a", plaintext)); err != nil {
		t.Fatal(err)
	}
	key, err := sealed.Key("default", "a")
	if err != nil {
		t.Fatal(err)
	}
	old, err := s.Keyring().Primary()
	if err != nil {
		t.Fatal(err)
	}
	looks := 0
	opened, err := s.OpenNewest(sealed, func() *kv.Item {
		item, _ := machine.Get(key)
		if looks++; looks > 1 {
			return item
		}
		if _, err := s.Keyring().Rotate(ctx); err != nil {
			t.Fatal(err)
		}
		if err := s.Keyring().Rewrite(ctx, func(int, int) {}); err != nil {
			t.Fatal(err)
		}
		if err := s.Keyring().Remove(ctx, old); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Keyring().Primary(); err != nil { // the new ring is known
			t.Fatal(err)
		}
		return item
	})
	if err != nil || looks != 2 || !bytes.Contains(opened.Value, []byte(plaintext)) {
		t.Errorf("after %d looks %v", looks, err)
	}
}

// Many write while the key changes again and again. No value may be lost, be
// under a key that was removed, or escape the rewrite.
func TestRotationWhileWriting(t *testing.T) {
	s, _, _ := openSealing(t)
	ctx := t.Context()
	const writers, rotations = 4, 5
	var group sync.WaitGroup
	stop := make(chan struct{})
	for w := range writers {
		name := fmt.Sprintf("s%d", w)
		if _, err := secrets(s).Create(ctx, secret(name, "0")); err != nil {
			t.Fatal(err)
		}
		group.Go(func() {
			for n := 1; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := secrets(s).Update(ctx, secret(name, fmt.Sprint(n)), 0); err != nil {
					t.Errorf("write %d of %s: %v", n, name, err)
					return
				}
				if page, err := secrets(s).Table().List(ctx, store.ListOptions{}); err != nil {
					t.Errorf("list after write %d of %s: %d items, %v", n, name, len(page.Items), err)
					return
				}
				if got, err := secrets(s).Get(ctx, "default", name); err != nil || password(got) != fmt.Sprint(n) {
					t.Errorf("read of write %d of %s: %v, %v", n, name, got, err)
					return
				}
			}
		})
	}
	for range rotations {
		old, err := s.Keyring().Primary()
		if err != nil {
			t.Fatal(err)
		}
		id, err := s.Keyring().Rotate(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Keyring().Rewrite(ctx, func(int, int) {}); err != nil {
			t.Fatal(err)
		}
		if err := s.Keyring().Remove(ctx, old); err != nil {
			t.Errorf("after the rewrite: %v", err)
		}
		keys, clear, err := s.Keyring().List(ctx)
		if err != nil || clear != 0 || len(keys) != 1 || keys[0].ID != id || keys[0].Values != writers {
			t.Errorf("keys %+v, %d in the clear, %v, want %d values of %s alone", keys, clear, err, writers, id)
		}
	}
	close(stop)
	group.Wait()
}

func TestKeysInUseStay(t *testing.T) {
	s, _, _ := openSealing(t)
	ctx := t.Context()
	if _, err := secrets(s).Create(ctx, secret("a", plaintext)); err != nil {
		t.Fatal(err)
	}
	old, _ := s.Keyring().Primary()
	if err := s.Keyring().Remove(ctx, old); !errors.Is(err, keyring.ErrPrimary) {
		t.Errorf("the primary key: %v, want %v", err, keyring.ErrPrimary)
	}
	if _, err := s.Keyring().Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Keyring().Remove(ctx, old); !errors.Is(err, store.ErrKeyInUse) {
		t.Errorf("a key in use: %v, want %v", err, store.ErrKeyInUse)
	}
	if err := s.Keyring().Remove(ctx, "00"); !errors.Is(err, keyring.ErrNoKey) {
		t.Errorf("no key: %v, want %v", err, keyring.ErrNoKey)
	}
}

// rotating changes the key just before a write reaches the log, as another
// control node may.
type rotating struct {
	store.Log
	rotate func()
}

func (r *rotating) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	if rotate := r.rotate; rotate != nil {
		r.rotate = nil
		rotate()
	}
	return r.Log.Propose(ctx, cmd)
}

func TestNothingIsSealedWithAKeyThatTheLogHasReplaced(t *testing.T) {
	for name, write := range map[string]func(*store.Store) error{
		"create": func(s *store.Store) error { _, err := secrets(s).Create(t.Context(), secret("b", "new")); return err },
		"update": func(s *store.Store) error {
			_, err := secrets(s).Update(t.Context(), secret("a", "new"), 0)
			return err
		},
		"transaction": func(s *store.Store) error {
			_, err := s.Txn(t.Context(), []store.Write{{Verb: store.Update, Spec: sealed, Object: secret("a", "new")}})
			return err
		},
	} {
		s, log, _ := openSealing(t)
		if _, err := secrets(s).Create(t.Context(), secret("a", "old")); err != nil {
			t.Fatal(err)
		}
		old, _ := s.Keyring().Primary()
		err := write(s.WithLog(&rotating{Log: log, rotate: func() {
			if _, err := s.Keyring().Rotate(t.Context()); err != nil {
				t.Error(err)
			}
		}}))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.Keyring().Rewrite(t.Context(), func(int, int) {}); err != nil {
			t.Fatal(err)
		}
		keys, _, err := s.Keyring().List(t.Context())
		if err != nil || keys[0].ID != old || keys[0].Values != 0 {
			t.Errorf("%s: %d values under the old key, %v, want none", name, keys[0].Values, err)
		}
		item, _ := s.Raw().Get("sealed.test/default/a")
		if name == "update" && keyring.KeyID(item.Value) == old {
			t.Errorf("%s: sealed with the old key", name)
		}
	}
}

// A key that was removed may still be needed to read the past: who asks for it
// is sent to the present.
func TestThePastOfARemovedKeyIsExpired(t *testing.T) {
	s, _, _ := openSealing(t)
	ctx := t.Context()
	if _, err := secrets(s).Create(ctx, secret("a", plaintext)); err != nil {
		t.Fatal(err)
	}
	past := s.Revision()
	old, _ := s.Keyring().Primary()
	watch, err := secrets(s).Table().Watch(ctx, store.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Keyring().Rotate(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Keyring().Rewrite(ctx, func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	if err := s.Keyring().Remove(ctx, old); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Keyring().List(ctx); err != nil { // from here on this replica has not got it either
		t.Fatal(err)
	}
	if _, _, err := watch.Next(ctx); !errors.Is(err, store.ErrExpired) {
		t.Errorf("watch: %v, want %v", err, store.ErrExpired)
	}
	if _, err := secrets(s).Table().List(ctx, store.ListOptions{Revision: past}); !errors.Is(err, store.ErrExpired) {
		t.Errorf("list of the past: %v, want %v", err, store.ErrExpired)
	}
	if got, err := secrets(s).Get(ctx, "default", "a"); err != nil || password(got) != plaintext {
		t.Errorf("get: %v, %v", got, err)
	}
}

func TestReplaceTakesOverTheKeysOfASavedState(t *testing.T) {
	saved, _, _ := openSealing(t)
	if _, err := secrets(saved).Create(t.Context(), secret("a", plaintext)); err != nil {
		t.Fatal(err)
	}
	state := savedState(t, saved)
	other, _, _ := storetest.Open(t)
	other = other.Sealing(testRoot(t, "another CA's key"))
	if err := other.Keyring().Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Replace(t.Context(), bytes.NewReader(state), nil); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("without the root of the saved cluster: %v, want %v", err, store.ErrInvalid)
	}
	root := testRoot(t, "the CA's key")
	if _, err := other.Replace(t.Context(), bytes.NewReader(state), &root); err != nil {
		t.Fatal(err)
	}
	if got, err := secrets(other).Get(t.Context(), "default", "a"); err != nil || password(got) != plaintext {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := secrets(other).Update(t.Context(), secret("a", "new"), 0); err != nil {
		t.Errorf("update: %v", err)
	}
}

func BenchmarkSealed(b *testing.B) {
	s, _, _ := openSealing(b)
	plain := *sealed
	plain.Sealed, plain.Resource = false, schema.GroupResource{Group: "test", Resource: "plain"}
	for _, spec := range []*store.Spec{&plain, sealed} {
		for i := range 100 {
			obj := secret(fmt.Sprintf("s%03d", i), strings.Repeat("x", 1024))
			if _, err := s.Table(spec).Create(b.Context(), obj); err != nil {
				b.Fatal(err)
			}
		}
		b.Run("get "+spec.Resource.Resource, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := s.Table(spec).GetItem("default", "s050"); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("list of 100 "+spec.Resource.Resource, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Table(spec).List(b.Context(), store.ListOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("update "+spec.Resource.Resource, func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := s.Table(spec).Update(b.Context(), secret("s050", fmt.Sprint(time.Now(), i)), 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
