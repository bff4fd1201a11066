package operator

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/keyring"
	"github.com/musterhq/muster/control/store/storetest"
	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// progress is the answer to a rotate.
type progress struct {
	grpc.ServerStream
	ctx  context.Context
	sent []*clusterv1.RewriteProgress
}

func (p *progress) Context() context.Context { return p.ctx }
func (p *progress) Send(m *clusterv1.RewriteProgress) error {
	p.sent = append(p.sent, m)
	return nil
}

// signers are keys for tokens that only have names.
type signers []string

func (s *signers) List(context.Context) (list []SigningKey, err error) {
	for i, id := range *s {
		key := SigningKey{ID: id, Signs: i == 0}
		if i > 0 {
			key.Created, key.From = time.Unix(1, 0), time.Unix(2, 0)
		}
		list = append(list, key)
	}
	return list, nil
}

func (s *signers) Rotate(context.Context) (string, error) {
	*s = append(*s, fmt.Sprint("key", len(*s)))
	return (*s)[len(*s)-1], nil
}

func (s *signers) Remove(context.Context, string) error { return ErrLastKey }

func newKeyring(t *testing.T, secrets int) *Keyring {
	t.Helper()
	root, err := keyring.NewRoot([]byte("the CA's key"))
	if err != nil {
		t.Fatal(err)
	}
	s := storetest.New(t).Sealing(root)
	if err := s.Keyring().Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range secrets {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("s", i)}}
		if _, err := s.Table(store.Secrets).Create(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
	}
	return NewKeyring(s.Keyring(), &signers{"key0"}, nil)
}

func TestKeyringRotatesAndTellsHowFarItIs(t *testing.T) {
	k, ctx := newKeyring(t, 20), t.Context()
	before, err := k.List(ctx, &clusterv1.ListKeysRequest{})
	if err != nil || len(before.Keys) != 1 || before.Keys[0].Values != 20 || !before.Keys[0].Primary {
		t.Fatalf("before: %v, %v, want one key of 20 values", before, err)
	}
	old := before.Keys[0].Id
	if _, err := k.Remove(ctx, &clusterv1.RemoveKeyRequest{Id: old}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("removing the primary key: %v, want %v", err, codes.FailedPrecondition)
	}
	told := &progress{ctx: ctx}
	if err := k.Rotate(&clusterv1.RotateKeysRequest{}, told); err != nil {
		t.Fatal(err)
	}
	if len(told.sent) != 21 || told.sent[0].Id == old || told.sent[0].Total != 0 || told.sent[20].Total != 20 {
		t.Errorf("told %v, want the new key, then each of 20 values", told.sent)
	}
	after, err := k.List(ctx, &clusterv1.ListKeysRequest{})
	if err != nil || len(after.Keys) != 2 || after.Keys[0].Values != 0 || after.Keys[1].Values != 20 || !after.Keys[1].Primary {
		t.Errorf("after: %v, %v, want all values under the new key", after, err)
	}
	if _, err := k.Remove(ctx, &clusterv1.RemoveKeyRequest{Id: old}); err != nil {
		t.Errorf("removing the old key: %v", err)
	}
	for id, want := range map[string]codes.Code{old: codes.NotFound, "": codes.InvalidArgument} {
		if _, err := k.Remove(ctx, &clusterv1.RemoveKeyRequest{Id: id}); status.Code(err) != want {
			t.Errorf("removing %q: %v, want %v", id, err, want)
		}
	}
	again := &progress{ctx: ctx}
	if err := k.Rewrite(&clusterv1.RewriteRequest{}, again); err != nil || len(again.sent) != 1 {
		t.Errorf("a rewrite of nothing told %v, %v, want the key alone", again.sent, err)
	}
}

func TestKeyringLooksAfterTheKeysOfTokens(t *testing.T) {
	k, ctx := newKeyring(t, 1), t.Context()
	told := &progress{ctx: ctx}
	if err := k.Rotate(&clusterv1.RotateKeysRequest{Tokens: true}, told); err != nil || len(told.sent) != 1 || told.sent[0].Id != "key1" {
		t.Errorf("told %v, %v, want the new key", told.sent, err)
	}
	list, err := k.List(ctx, &clusterv1.ListKeysRequest{Tokens: true})
	if err != nil || len(list.Keys) != 2 || !list.Keys[0].Primary || list.Keys[0].Created != 0 || list.Keys[1].From != 2 {
		t.Errorf("listed %v, %v", list, err)
	}
	if _, err := k.Remove(ctx, &clusterv1.RemoveKeyRequest{Id: "key0", Tokens: true}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("removing the last key: %v, want %v", err, codes.FailedPrecondition)
	}
}
