package serviceaccount

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/musterhq/muster/control/kube"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// objects finds what tokens are bound to, and takes note of it in the record
// that ctx carries.
type objects struct{ store *store.Store }

var _ kube.TokenObjects = objects{}

// errNotServed is what tokens bound to webhook configurations get, as where
// upstream's alpha feature is off.
var errNotServed = errors.New("tokens are not bound to webhook configurations")

func (o objects) GetServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return find[*corev1.ServiceAccount](ctx, o.store, store.ServiceAccounts, namespace, name)
}

func (o objects) GetPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	return find[*corev1.Pod](ctx, o.store, store.Pods, namespace, name)
}

func (o objects) GetSecret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return find[*corev1.Secret](ctx, o.store, store.Secrets, namespace, name)
}

func (o objects) GetNode(ctx context.Context, name string) (*corev1.Node, error) {
	return find[*corev1.Node](ctx, o.store, store.Nodes, "", name)
}

func (objects) GetValidatingWebhookConfiguration(context.Context, string) (*admissionregistrationv1.ValidatingWebhookConfiguration, error) {
	return nil, errNotServed
}

func (objects) GetMutatingWebhookConfiguration(context.Context, string) (*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	return nil, errNotServed
}

// record is what one verification looked at.
type record struct {
	keys   *Keys
	asked  bool // for an object
	seen   []seen
	ending bool // something is being deleted: soon the token is not good any more
	// failure is why an object could not be read, unless it does not exist.
	failure error
}

// seen is the key of an object and its revision when it was looked at.
type seen struct {
	key      string
	revision uint64
}

type recordKey struct{}

func withRecord(ctx context.Context, r *record) context.Context {
	return context.WithValue(ctx, recordKey{}, r)
}

func find[T store.Object](ctx context.Context, s *store.Store, spec *store.Spec, namespace, name string) (T, error) {
	var none T
	r, _ := ctx.Value(recordKey{}).(*record)
	if r == nil {
		r = &record{}
	}
	r.asked = true
	item, _, err := s.Table(spec).GetItem(namespace, name)
	if err != nil {
		if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrInvalid) {
			r.failure = err
		}
		return none, err
	}
	r.seen = append(r.seen, seen{item.Key, item.Revision})
	obj, err := store.Decode(spec, item)
	if err != nil {
		r.failure = err
		return none, err
	}
	if obj.GetDeletionTimestamp() != nil {
		r.ending = true
	}
	return obj.(T), nil
}

// holds says whether all that a token is bound to is as it was, and the keys
// are those that verified it.
func (t *Tokens) holds(v *verified) bool {
	if keys, err := t.cfg.Keys(); err != nil || keys != v.keys {
		return false
	}
	raw := t.cfg.Registry.Store().Raw()
	for _, s := range v.bound {
		if item, _ := raw.Get(s.key); item == nil || item.Revision != s.revision {
			return false
		}
	}
	return true
}

// goodUntil is how long a token that was verified is good yet. One that does not say
// is good for as long as what it is bound to.
func goodUntil(token string, now time.Time) (time.Duration, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0, false
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return 0, false
	}
	var said struct {
		Expires *float64 `json:"exp"`
	}
	if err := json.Unmarshal(claims, &said); err != nil {
		return 0, false
	}
	if said.Expires == nil {
		return knownFor, true
	}
	left := time.Unix(int64(*said.Expires), 0).Sub(now)
	return left, left > 0
}

// labelUsed notes on the secret of a token of the old kind on which day it was
// used, at most once a day.
func (t *Tokens) labelUsed(ctx context.Context, namespace, name string, labels map[string]string) error {
	_, _, err := t.cfg.Registry.Update(ctx, resource.Secrets, namespace, name, "", func(current store.Object) (store.Object, error) {
		merged := current.GetLabels()
		if merged == nil {
			merged = map[string]string{}
		}
		for key, value := range labels {
			merged[key] = value
		}
		current.SetLabels(merged)
		return current, nil
	}, resource.UpdateOptions{})
	return err
}
