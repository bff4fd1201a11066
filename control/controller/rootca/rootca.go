// Package rootca publishes the CA's certificate in each namespace, as the config
// map that is in every pod's token volume, and as the ClusterTrustBundle of its
// signer: by either pods know the API.
package rootca

import (
	"context"
	"log/slog"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/musterhq/muster/control/controller"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

const (
	name    = "kube-root-ca.crt"
	key     = "ca.crt"
	manager = "muster-rootca"

	descriptionAnnotation = "kubernetes.io/description"
	// description is upstream's.
	description = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Config is what a Controller of one leader term needs.
type Config struct {
	Registry    *resource.Registry
	Caches      *controller.Caches
	Certificate []byte // PEM
	Logger      *slog.Logger
}

// Controller keeps the config maps as they should be.
type Controller struct {
	cfg  Config
	loop *controller.Loop[string] // of namespaces
}

// New listens to the caches, which must not run yet.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg}
	c.loop = controller.NewLoop("rootca", 2, cfg.Logger, c.reconcile)
	cfg.Caches.Namespaces.OnChange(func(_, namespace *corev1.Namespace) {
		if namespace != nil {
			c.loop.Add(namespace.Name)
		}
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if !c.cfg.Caches.Synced(ctx) {
		return nil
	}
	configMaps := c.cfg.Registry.Store().Table(store.ConfigMaps)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.loop.Run(ctx) })
	group.Go(func() error {
		return controller.Follow(ctx, configMaps, fields.OneTermEqualSelector("metadata.name", name), func(e store.Event) {
			namespace, _ := store.ConfigMaps.SplitKey(e.Item.Key)
			c.loop.Add(namespace)
		})
	})
	return group.Wait()
}

func (c *Controller) reconcile(ctx context.Context, namespace string) error {
	ns, ok := c.cfg.Caches.Namespaces.Get("", namespace)
	if !ok || ns.Status.Phase == corev1.NamespaceTerminating {
		return nil
	}
	want := map[string]string{key: string(c.cfg.Certificate)}
	_, err := store.Of[*corev1.ConfigMap](c.cfg.Registry.Store(), store.ConfigMaps).Get(ctx, namespace, name)
	if err != nil {
		_, err = c.cfg.Registry.Create(ctx, resource.ConfigMaps, namespace, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{descriptionAnnotation: description}},
			Data:       want,
		}, resource.CreateOptions{})
	} else {
		// What is as it should be already is not written.
		_, _, err = c.cfg.Registry.Update(ctx, resource.ConfigMaps, namespace, name, "", func(current store.Object) (store.Object, error) {
			configMap := current.(*corev1.ConfigMap)
			configMap.Data, configMap.BinaryData = want, nil
			if configMap.Annotations == nil {
				configMap.Annotations = map[string]string{}
			}
			configMap.Annotations[descriptionAnnotation] = description
			return configMap, nil
		}, resource.UpdateOptions{FieldManager: manager})
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}
