package rootca

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/sync/errgroup"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// servingSigner is who signs what the API serves with, as volumes of pods may ask for it.
const servingSigner = "kubernetes.io/kube-apiserver-serving"

// Bundle keeps the CA's certificate as the one ClusterTrustBundle of its signer.
type Bundle struct {
	registry *resource.Registry
	wanted   *certificatesv1.ClusterTrustBundle
	loop     *controller.Loop[string] // of bundles
}

// NewBundle prepares it.
func NewBundle(registry *resource.Registry, certificate []byte, log *slog.Logger) *Bundle {
	sum := sha256.Sum256(certificate)
	b := &Bundle{registry: registry, wanted: &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("kubernetes.io:kube-apiserver-serving:%x", sum[:12])}, // upstream's name
		Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: servingSigner, TrustBundle: string(certificate)},
	}}
	b.loop = controller.NewLoop("rootca-bundle", 1, log, b.reconcile)
	return b
}

// Run works until ctx ends.
func (b *Bundle) Run(ctx context.Context) error {
	b.loop.Add(b.wanted.Name)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return b.loop.Run(ctx) })
	group.Go(func() error {
		bundles := b.registry.Store().Table(store.ClusterTrustBundles)
		return controller.Follow(ctx, bundles, fields.OneTermEqualSelector("spec.signerName", servingSigner), func(e store.Event) {
			_, name := store.ClusterTrustBundles.SplitKey(e.Item.Key)
			b.loop.Add(name)
		})
	})
	return group.Wait()
}

// reconcile makes the bundle what it should be, and deletes any other of the signer's.
func (b *Bundle) reconcile(ctx context.Context, name string) error {
	now, err := store.Of[*certificatesv1.ClusterTrustBundle](b.registry.Store(), store.ClusterTrustBundles).Get(ctx, "", name)
	switch missing := errors.Is(err, store.ErrNotFound); {
	case err != nil && !missing:
		return err
	case name != b.wanted.Name && (missing || now.Spec.SignerName != servingSigner):
		return nil
	case name != b.wanted.Name:
		return controller.Delete(ctx, b.registry, resource.ClusterTrustBundles, now)
	case missing:
		_, err := b.registry.Create(ctx, resource.ClusterTrustBundles, "", b.wanted.DeepCopy(), resource.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	}
	return controller.Change(ctx, b.registry, resource.ClusterTrustBundles, now, "", func(now *certificatesv1.ClusterTrustBundle) bool {
		if now.Spec.TrustBundle == b.wanted.Spec.TrustBundle {
			return false
		}
		now.Spec.TrustBundle = b.wanted.Spec.TrustBundle
		return true
	})
}
