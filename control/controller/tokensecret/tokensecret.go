// Package tokensecret keeps the secrets that hold service accounts' tokens of
// the old kind: whoever makes one of type kubernetes.io/service-account-token
// that names an account gets a token in it, and it goes with its account. Tokens
// that pods mount are of another kind, and in no secret.
package tokensecret

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	apiwatch "k8s.io/apimachinery/pkg/watch"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const manager = "muster-tokensecret"

// Config is what a Controller of one leader term needs.
type Config struct {
	Registry *resource.Registry
	// Sign makes the token that a secret is to hold.
	Sign func(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) (string, error)
	// Certificate of the CA, PEM, is beside the token.
	Certificate []byte
	Logger      *slog.Logger
}

// Controller fills secrets, and deletes those whose account is gone.
type Controller struct {
	cfg      Config
	secrets  store.Typed[*corev1.Secret]
	accounts store.Typed[*corev1.ServiceAccount]
	loop     *controller.Loop[key]
}

// key is a secret and the account that it named when it was last seen.
type key struct{ namespace, name, account string }

var ofType = fields.OneTermEqualSelector("type", string(corev1.SecretTypeServiceAccountToken))

// New prepares a controller of a term.
func New(cfg Config) *Controller {
	c := &Controller{
		cfg:      cfg,
		secrets:  store.Of[*corev1.Secret](cfg.Registry.Store(), store.Secrets),
		accounts: store.Of[*corev1.ServiceAccount](cfg.Registry.Store(), store.ServiceAccounts),
	}
	c.loop = controller.NewLoop("tokensecret", 2, cfg.Logger, c.reconcile)
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.loop.Run(ctx) })
	group.Go(func() error {
		return controller.Follow(ctx, c.secrets.Table(), ofType, func(e store.Event) {
			if secret, err := store.Decode(store.Secrets, e.Item); err == nil {
				c.add(secret.(*corev1.Secret))
			}
		})
	})
	group.Go(func() error {
		return controller.Follow(ctx, c.accounts.Table(), nil, func(e store.Event) {
			if e.Type != apiwatch.Deleted {
				return
			}
			namespace, _ := store.ServiceAccounts.SplitKey(e.Item.Key)
			secrets, _, err := c.secrets.List(ctx, store.ListOptions{Namespace: namespace, Fields: ofType})
			if err != nil {
				c.cfg.Logger.Error("token secrets of a service account that is gone can't be listed", "namespace", namespace, "error", err)
			}
			for _, secret := range secrets {
				c.add(secret)
			}
		})
	})
	return group.Wait()
}

func (c *Controller) add(secret *corev1.Secret) {
	c.loop.Add(key{secret.Namespace, secret.Name, secret.Annotations[corev1.ServiceAccountNameKey]})
}

func (c *Controller) reconcile(ctx context.Context, k key) error {
	if k.account == "" {
		return nil
	}
	secret, err := c.secrets.Get(ctx, k.namespace, k.name)
	if errors.Is(err, store.ErrNotFound) {
		return c.dropReference(ctx, k)
	}
	if err != nil {
		return err
	}
	if secret.Type != corev1.SecretTypeServiceAccountToken || secret.Annotations[corev1.ServiceAccountNameKey] != k.account {
		return nil
	}
	account, err := c.accounts.Get(ctx, k.namespace, k.account)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	uid := secret.Annotations[corev1.ServiceAccountUIDKey]
	if err != nil || uid != "" && uid != string(account.UID) {
		return c.delete(ctx, secret)
	}
	return c.fill(ctx, account, secret)
}

// delete removes the secret of an account that is gone.
func (c *Controller) delete(ctx context.Context, secret *corev1.Secret) error {
	options := &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(secret.UID))}
	_, _, err := c.cfg.Registry.Delete(ctx, resource.Secrets, secret.Namespace, secret.Name, options)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// fill gives a secret what it lacks.
func (c *Controller) fill(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) error {
	if c.full(secret) {
		return nil
	}
	token, err := c.cfg.Sign(ctx, account, secret)
	if err != nil {
		return err
	}
	_, _, err = c.cfg.Registry.Update(ctx, resource.Secrets, secret.Namespace, secret.Name, "", func(current store.Object) (store.Object, error) {
		now := current.(*corev1.Secret)
		if now.UID != secret.UID {
			return now, nil
		}
		if now.Data == nil {
			now.Data = map[string][]byte{}
		}
		now.Data[corev1.ServiceAccountRootCAKey] = c.cfg.Certificate
		if len(now.Data[corev1.ServiceAccountNamespaceKey]) == 0 {
			now.Data[corev1.ServiceAccountNamespaceKey] = []byte(now.Namespace)
		}
		if len(now.Data[corev1.ServiceAccountTokenKey]) == 0 {
			now.Data[corev1.ServiceAccountTokenKey] = []byte(token)
		}
		now.Annotations[corev1.ServiceAccountNameKey] = account.Name
		now.Annotations[corev1.ServiceAccountUIDKey] = string(account.UID)
		return now, nil
	}, resource.UpdateOptions{FieldManager: manager})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *Controller) full(secret *corev1.Secret) bool {
	return bytes.Equal(secret.Data[corev1.ServiceAccountRootCAKey], c.cfg.Certificate) &&
		len(secret.Data[corev1.ServiceAccountNamespaceKey]) > 0 && len(secret.Data[corev1.ServiceAccountTokenKey]) > 0
}

// dropReference has an account not name a secret that is gone.
func (c *Controller) dropReference(ctx context.Context, k key) error {
	account, err := c.accounts.Get(ctx, k.namespace, k.account)
	named := func(ref corev1.ObjectReference) bool { return ref.Name == k.name }
	if errors.Is(err, store.ErrNotFound) || err == nil && !slices.ContainsFunc(account.Secrets, named) {
		return nil
	}
	if err != nil {
		return err
	}
	_, _, err = c.cfg.Registry.Update(ctx, resource.ServiceAccounts, k.namespace, k.account, "", func(current store.Object) (store.Object, error) {
		now := current.(*corev1.ServiceAccount)
		now.Secrets = slices.DeleteFunc(now.Secrets, named)
		return now, nil
	}, resource.UpdateOptions{FieldManager: manager})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
