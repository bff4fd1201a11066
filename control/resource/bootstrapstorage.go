package resource

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/store"
)

const (
	defaultClass    = "storageclass.kubernetes.io/is-default-class"
	oldDefaultClass = "storageclass.beta.kubernetes.io/is-default-class"
	// localPathMade, among Muster's own keys, says that the class has been made. From
	// then on it is its users', to change, or to delete for good.
	localPathMade = "bootstrap/storageclass-local-path"
)

// ensureLocalPath gives a cluster, once, the storage class that has claims just
// work: it is what claims get that name no class, unless there is such a class already.
func ensureLocalPath(ctx context.Context, r *Registry) error {
	if _, _, err := r.store.System().Get(localPathMade); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	class := &storagev1.StorageClass{
		ObjectMeta:        metav1.ObjectMeta{Name: "local-path"},
		Provisioner:       LocalPathProvisioner,
		ReclaimPolicy:     ptr.To(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	}
	others, _, err := store.Of[*storagev1.StorageClass](r.store, store.StorageClasses).List(ctx, store.ListOptions{})
	if err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	class.Annotations = map[string]string{defaultClass: "true"}
	for _, other := range others {
		if other.Annotations[defaultClass] == "true" || other.Annotations[oldDefaultClass] == "true" {
			class.Annotations = nil
		}
	}
	if _, err := r.Create(ctx, StorageClasses, "", class, CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("bootstrap: storage class %s: %w", class.Name, err)
	}
	if _, err := r.store.System().Create(ctx, localPathMade, []byte("yes")); err != nil && !errors.Is(err, store.ErrExists) {
		return fmt.Errorf("bootstrap: %w", err)
	}
	return nil
}
