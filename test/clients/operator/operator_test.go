package operator

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/musterhq/muster/test/clients/cluster"
)

const (
	namespace = "operator"
	// limit is how long what is expected may take on a machine that does much else.
	limit = time.Minute
)

// TestOperatorKeepsItsPromises has two managers of which one leads, takes the
// leading control node from under it, and then the manager from the other.
func TestOperatorKeepsItsPromises(t *testing.T) {
	ctrl.SetLogger(logr.Discard())
	c := cluster.Start(t, 3, 0)
	scheme := runtime.NewScheme()
	if err := clientscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	scheme.AddKnownTypes(groupVersion, &Widget{}, &WidgetList{})
	metav1.AddToGroupVersion(scheme, groupVersion)
	user, err := client.New(c.Balanced(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	install(t, user)

	managers := map[string]*manager{}
	for _, name := range []string{"first", "second"} {
		managers[name] = manage(t, name, c.Balanced(), scheme)
	}
	var leads, waits *manager
	select {
	case <-managers["first"].Elected():
		leads, waits = managers["first"], managers["second"]
	case <-managers["second"].Elected():
		leads, waits = managers["second"], managers["first"]
	case <-time.After(limit):
		t.Fatal("no manager leads")
	}

	ctx := t.Context()
	widget := &Widget{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "w"}, Spec: WidgetSpec{Text: "ab"}}
	if err := user.Create(ctx, widget); err != nil {
		t.Fatal(err)
	}
	key := client.ObjectKeyFromObject(widget)
	text := func(want string) func() error {
		return func() error {
			owned := &corev1.ConfigMap{}
			if err := user.Get(ctx, key, owned); err != nil {
				return err
			}
			if owned.Data["text"] != want || len(owned.OwnerReferences) != 1 || owned.OwnerReferences[0].UID != widget.UID {
				return fmt.Errorf("it is %q, of %v, want %q", owned.Data["text"], owned.OwnerReferences, want)
			}
			return nil
		}
	}
	seen := func(generation int64, by string) func() error {
		return func() error {
			if err := user.Get(ctx, key, widget); err != nil {
				return err
			}
			want := WidgetStatus{ObservedGeneration: generation, By: by}
			if widget.Status != want || widget.Generation != generation || len(widget.Finalizers) != 1 {
				return fmt.Errorf("generation %d, finalizers %v, status %+v, want %+v", widget.Generation, widget.Finalizers, widget.Status, want)
			}
			return nil
		}
	}
	eventually(t, "the new widget's config map, with the default", text("abab"))
	eventually(t, "its status", seen(1, leads.name))

	leader := c.Leader()
	c.Kill(leader)
	change(t, user, key, func(w *Widget) { w.Spec.Copies = 3 })
	eventually(t, "what changed while no control node led", text("ababab"))
	eventually(t, "its status", seen(2, leads.name))
	if err := user.Delete(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "w"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the config map that was deleted", text("ababab"))
	c.Restart(leader)

	select {
	case <-waits.Elected():
		t.Fatalf("%s leads beside %s", waits.name, leads.name)
	default:
	}
	leads.stop()
	change(t, user, key, func(w *Widget) { w.Spec.Text = "c" })
	eventually(t, "what changed while no manager led", text("ccc"))
	eventually(t, "its status, by the other", seen(3, waits.name))

	if err := user.Delete(ctx, widget); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the receipt, and the end of the widget and what it owned", func() error {
		receipt := &corev1.ConfigMap{}
		if err := user.Get(ctx, types.NamespacedName{Namespace: namespace, Name: "receipt-w"}, receipt); err != nil {
			return err
		}
		if receipt.Data["by"] != waits.name {
			return fmt.Errorf("the receipt is by %q, want %s", receipt.Data["by"], waits.name)
		}
		for _, object := range []client.Object{&Widget{}, &corev1.ConfigMap{}} {
			if err := user.Get(ctx, key, object); !apierrors.IsNotFound(err) {
				return fmt.Errorf("%T is there: %v", object, err)
			}
		}
		return nil
	})
}

// install makes the namespace and the operator's kind.
func install(t *testing.T, user client.Client) {
	t.Helper()
	kind := &unstructured.Unstructured{}
	if err := kind.UnmarshalJSON([]byte(definition)); err != nil {
		t.Fatal(err)
	}
	for _, object := range []client.Object{&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, kind} {
		if err := user.Create(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the kind is served", func() error { return user.List(t.Context(), &WidgetList{}) })
}

// manager is one replica of the operator.
type manager struct {
	ctrl.Manager
	name string
	stop func() // returns once it has ended
}

// manage runs a manager until it is stopped or the test ends.
func manage(t *testing.T, name string, config *rest.Config, scheme *runtime.Scheme) *manager {
	t.Helper()
	m, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		LeaderElection: true, LeaderElectionID: "operator.example.org", LeaderElectionNamespace: namespace, LeaderElectionReleaseOnCancel: true,
		LeaseDuration: ptr.To(10 * time.Second), RenewDeadline: ptr.To(8 * time.Second), RetryPeriod: ptr.To(200 * time.Millisecond),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&reconciler{Client: m.GetClient(), name: name}).register(m); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Start(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		end()
		if err := <-ended; err != nil {
			t.Errorf("manager %s ended with %v", name, err)
		}
	}
	t.Cleanup(stop)
	return &manager{Manager: m, name: name, stop: stop}
}

// change is what a user does, again if it was not answered or somebody was faster.
func change(t *testing.T, user client.Client, key client.ObjectKey, f func(*Widget)) {
	t.Helper()
	eventually(t, "the change of the widget", func() error {
		widget := &Widget{}
		if err := user.Get(t.Context(), key, widget); err != nil {
			return err
		}
		f(widget)
		return user.Update(t.Context(), widget)
	})
}

func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v: %s: %v", limit, what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
