package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newRegistry(t testing.TB, settings Settings) *resource.Registry {
	t.Helper()
	s := storetest.New(t)
	r := resource.New(s, New(s, settings))
	if err := resource.EnsureBootstrap(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	addAccounts(t, s)
	return r
}

// addAccounts does what a controller does for each namespace.
func addAccounts(t testing.TB, s *store.Store) {
	t.Helper()
	for _, namespace := range []string{"default", "kube-system", "team", "baseline", "restricted", "warned"} {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default", UID: "default-uid"}}
		if _, err := s.Table(store.ServiceAccounts).Create(t.Context(), account); err != nil {
			t.Fatal(err)
		}
	}
}

func newPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "example.org/web:1"}}},
	}
}

func create(t testing.TB, r *resource.Registry, ns string, pod *corev1.Pod) (*corev1.Pod, error) {
	t.Helper()
	obj, err := r.Create(t.Context(), resource.Pods, ns, pod, resource.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Pod), nil
}

func TestNothingIsCreatedWithoutItsNamespace(t *testing.T) {
	r := newRegistry(t, Settings{})
	_, err := create(t, r, "nowhere", newPod("web"))
	if !apierrors.IsNotFound(err) || err.Error() != `namespaces "nowhere" not found` {
		t.Errorf("error %v, want 404 about the namespace", err)
	}
	if _, err := create(t, r, "no/where", newPod("web")); !apierrors.IsNotFound(err) {
		t.Errorf("error %v, want 404", err)
	}
	if _, err := create(t, r, "default", newPod("web")); err != nil {
		t.Error(err)
	}
}

func TestNothingIsCreatedInATerminatingNamespace(t *testing.T) {
	r := newRegistry(t, Settings{})
	if _, err := r.Create(t.Context(), resource.Namespaces, "", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := create(t, r, "team", newPod("old")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Delete(t.Context(), resource.Namespaces, "", "team", &metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := create(t, r, "team", newPod("new"))
	if !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("error %v, want 403 with the cause NamespaceTerminating", err)
	}
	if want := `pods "new" is forbidden: unable to create new content in namespace team because it is being terminated`; err.Error() != want {
		t.Errorf("message %q, want %q", err, want)
	}
	generated := newPod("")
	generated.GenerateName = "web-"
	if _, err := create(t, r, "team", generated); err == nil || !strings.Contains(err.Error(), `pods "web-" is forbidden`) {
		t.Errorf("error %v, want it to name the prefix", err)
	}
	// What is there may still change and go.
	if _, _, err := r.Update(t.Context(), resource.Pods, "team", "old", "", func(current store.Object) (store.Object, error) {
		current.SetLabels(map[string]string{"a": "b"})
		return current, nil
	}, resource.UpdateOptions{}); err != nil {
		t.Errorf("update: %v", err)
	}
	if _, _, err := r.Delete(t.Context(), resource.Pods, "team", "old", &metav1.DeleteOptions{}); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// A namespace can go between admission's look and the write, and take no notice
// of what is being created. Provoked by deleting it in just that moment.
func TestNothingIsLeftBehindInANamespaceThatWent(t *testing.T) {
	s := storetest.New(t)
	checks := New(s, Settings{})
	plain := resource.New(s, checks)
	addAccounts(t, s)
	if _, err := plain.Create(t.Context(), resource.Namespaces, "", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, resource.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	r := resource.New(s, after{checks, func() {
		if _, _, err := plain.Delete(t.Context(), resource.Namespaces, "", "team", &metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
		if _, _, err := plain.Update(t.Context(), resource.Namespaces, "", "team", "finalize", func(current store.Object) (store.Object, error) {
			current.(*corev1.Namespace).Spec.Finalizers = nil
			return current, nil
		}, resource.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	}})
	_, err := create(t, r, "team", newPod("web"))
	if !apierrors.IsNotFound(err) || !strings.Contains(err.Error(), `namespaces "team"`) {
		t.Errorf("error %v, want 404 about the namespace", err)
	}
	if _, err := s.Table(store.Pods).Get(t.Context(), "team", "web"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("pod in a namespace that went: %v, want none", err)
	}
}

// after does something once between admission's last word and the write.
type after struct {
	resource.Admission
	do func()
}

func (a after) Validate(ctx context.Context, attributes *resource.Attributes) error {
	if err := a.Admission.Validate(ctx, attributes); err != nil {
		return err
	}
	a.do()
	return nil
}

func TestSomeNamespacesCannotBeDeleted(t *testing.T) {
	r := newRegistry(t, Settings{})
	for name, forbidden := range map[string]bool{"default": true, "kube-system": true, "kube-public": true, "kube-node-lease": false} {
		_, _, err := r.Delete(t.Context(), resource.Namespaces, "", name, &metav1.DeleteOptions{})
		if forbidden != apierrors.IsForbidden(err) || !forbidden && err != nil {
			t.Errorf("%s: error %v, want forbidden %t", name, err, forbidden)
		}
		if forbidden && err.Error() != fmt.Sprintf(`namespaces %q is forbidden: this namespace may not be deleted`, name) {
			t.Errorf("message %q", err)
		}
	}
}

func TestPodsThatDoNotSayOutlastANodeForAMoment(t *testing.T) {
	five := int64(5)
	for _, test := range []struct {
		name     string
		settings Settings
		given    []corev1.Toleration
		want     string
	}{
		{"the default", Settings{}, nil, "[not-ready:30 unreachable:2]"},
		{"the cluster's", Settings{NotReadyToleration: 10 * time.Second, UnreachableToleration: time.Minute}, nil, "[not-ready:10 unreachable:60]"},
		{"the user's", Settings{}, []corev1.Toleration{
			{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &five},
		}, "[unreachable:5 not-ready:30]"},
		{"for ever", Settings{}, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, "[:ever]"},
		{"another effect", Settings{}, []corev1.Toleration{
			{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
		}, "[not-ready:ever not-ready:30 unreachable:2]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRegistry(t, test.settings)
			pod := newPod("web")
			pod.Spec.Tolerations = test.given
			pod, err := create(t, r, "default", pod)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, toleration := range pod.Spec.Tolerations {
				long := "ever"
				if s := toleration.TolerationSeconds; s != nil {
					long = fmt.Sprint(*s)
				}
				got = append(got, strings.TrimPrefix(toleration.Key, "node.kubernetes.io/")+":"+long)
			}
			if fmt.Sprint(got) != test.want {
				t.Errorf("tolerations %v, want %s", got, test.want)
			}
			// A second pass, as an update makes one, adds nothing.
			updated, _, err := r.Update(t.Context(), resource.Pods, "default", "web", "", func(current store.Object) (store.Object, error) {
				return current, nil
			}, resource.UpdateOptions{})
			if err != nil || updated.GetResourceVersion() != pod.ResourceVersion {
				t.Errorf("update: %v, %v; want no change", updated, err)
			}
		})
	}
}

func TestPriorityComesFromTheClass(t *testing.T) {
	r := newRegistry(t, Settings{})
	pod, err := create(t, r, "default", newPod("plain"))
	if err != nil {
		t.Fatal(err)
	}
	if *pod.Spec.Priority != 0 || *pod.Spec.PreemptionPolicy != corev1.PreemptLowerPriority {
		t.Errorf("priority %d, %s; want 0, PreemptLowerPriority", *pod.Spec.Priority, *pod.Spec.PreemptionPolicy)
	}
	critical := newPod("critical")
	critical.Spec.PriorityClassName = "system-node-critical"
	if critical, err = create(t, r, "kube-system", critical); err != nil || *critical.Spec.Priority != 2_000_001_000 {
		t.Errorf("%v, %v; want the class's priority", critical, err)
	}
	unknown := newPod("unknown")
	unknown.Spec.PriorityClassName = "gold"
	if _, err := create(t, r, "default", unknown); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "no PriorityClass with name gold was found") {
		t.Errorf("error %v, want 403", err)
	}
	own := newPod("own")
	own.Spec.Priority = new(int32)
	*own.Spec.Priority = 7
	if _, err := create(t, r, "default", own); !apierrors.IsForbidden(err) {
		t.Errorf("error %v, want 403", err)
	}
	// A client that does not know the field drops it.
	if _, _, err := r.Update(t.Context(), resource.Pods, "default", "plain", "", func(current store.Object) (store.Object, error) {
		current.(*corev1.Pod).Spec.Priority = nil
		current.(*corev1.Pod).Spec.PreemptionPolicy = nil
		return current, nil
	}, resource.UpdateOptions{}); err != nil {
		t.Errorf("update without priority: %v", err)
	}
}
