package resource

import (
	"errors"
	"testing"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
)

func TestClusterHasAStorageClassUntilItsUsersDeleteIt(t *testing.T) {
	r := newRegistry(t)
	ensure := func() {
		t.Helper()
		if err := EnsureBootstrap(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	ensure()
	table := store.Of[*storagev1.StorageClass](r.store, store.StorageClasses)
	class, err := table.Get(t.Context(), "", "local-path")
	if err != nil || class.Annotations[defaultClass] != "true" || class.Provisioner != LocalPathProvisioner {
		t.Fatalf("class %+v, %v, want it to be the one of claims that name none", class, err)
	}
	before := r.store.Revision()
	ensure()
	if got := r.store.Revision(); got != before {
		t.Errorf("%d writes though all was there, want none", got-before)
	}
	if _, _, err := r.Delete(t.Context(), StorageClasses, "", "local-path", nil); err != nil {
		t.Fatal(err)
	}
	ensure()
	if _, err := table.Get(t.Context(), "", "local-path"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the class came back: %v", err)
	}
}

func TestStorageClassLeavesTheDefaultToWhatIsThere(t *testing.T) {
	r := newRegistry(t)
	if _, err := r.Create(t.Context(), StorageClasses, "", &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "disks", Annotations: map[string]string{defaultClass: "true"}}, Provisioner: "example.org/disks",
	}, CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := EnsureBootstrap(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	class, err := store.Of[*storagev1.StorageClass](r.store, store.StorageClasses).Get(t.Context(), "", "local-path")
	if err != nil || class.Annotations[defaultClass] == "true" {
		t.Errorf("class %+v, %v, want it there, and not the default", class, err)
	}
}
