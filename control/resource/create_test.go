package resource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	genericrequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestCreateSetsWhatUsersCannot(t *testing.T) {
	r := newRegistry(t)
	pod := newPod("web")
	pod.UID, pod.Generation = "mine", 7
	pod.CreationTimestamp = metav1.Unix(1, 0)
	pod.DeletionTimestamp = &metav1.Time{}
	pod.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "elsewhere", Operation: metav1.ManagedFieldsOperationUpdate}}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"}
	got := must(t, r, Pods, "default", pod)

	if got.UID == "" || got.UID == "mine" {
		t.Errorf("uid %q, want a new one", got.UID)
	}
	if got.CreationTimestamp.Unix() == 1 || got.CreationTimestamp.IsZero() {
		t.Errorf("created %v, want now", got.CreationTimestamp)
	}
	if got.DeletionTimestamp != nil {
		t.Errorf("deletionTimestamp %v, want none", got.DeletionTimestamp)
	}
	if got.ManagedFields != nil {
		t.Errorf("managedFields %v, want none", got.ManagedFields)
	}
	if got.Namespace != "default" {
		t.Errorf("namespace %q, want that of the request", got.Namespace)
	}
	if got.Generation != 1 {
		t.Errorf("generation %d, want 1", got.Generation)
	}
	if got.Status.Phase != corev1.PodPending || got.Status.PodIP != "" || got.Status.QOSClass != corev1.PodQOSBestEffort {
		t.Errorf("status %+v, want a new pod's", got.Status)
	}
	if got.Spec.RestartPolicy != corev1.RestartPolicyAlways || got.Spec.SchedulerName != "default-scheduler" ||
		got.Spec.Containers[0].ImagePullPolicy != corev1.PullIfNotPresent || *got.Spec.TerminationGracePeriodSeconds != 30 {
		t.Errorf("spec %+v, want Kubernetes' defaults", got.Spec)
	}
	if got.ResourceVersion == "" {
		t.Error("no resourceVersion in the answer")
	}
	again := stored[*corev1.Pod](t, r, Pods, "default", "web")
	if again == nil || again.UID != got.UID || again.ResourceVersion != got.ResourceVersion {
		t.Errorf("stored %+v, want what was answered", again)
	}
}

func TestCreateResetsEachKindAsUpstream(t *testing.T) {
	r := newRegistry(t)
	ns := must(t, r, Namespaces, "", &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "team-"},
		Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"example.org/mine"}},
		Status:     corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating},
	})
	if ns.Status.Phase != corev1.NamespaceActive {
		t.Errorf("namespace phase %q, want Active", ns.Status.Phase)
	}
	if got := fmt.Sprint(ns.Spec.Finalizers); got != "[example.org/mine kubernetes]" {
		t.Errorf("namespace finalizers %s, want the user's and kubernetes", got)
	}
	if ns.Labels[corev1.LabelMetadataName] != ns.Name || !strings.HasPrefix(ns.Name, "team-") {
		t.Errorf("namespace %q labelled %q, want its generated name", ns.Name, ns.Labels)
	}

	rc := newRC("web", 2)
	rc.Generation, rc.Status.Replicas = 9, 9
	rc = must(t, r, ReplicationControllers, "default", rc)
	if rc.Generation != 1 || rc.Status.Replicas != 0 {
		t.Errorf("controller generation %d, %d replicas counted; want 1 and 0", rc.Generation, rc.Status.Replicas)
	}

	node := newNode("n1")
	node.Status.NodeInfo.KernelVersion = "6.1"
	node.Spec.PodCIDR = "10.1.0.0/24"
	node.Spec.ConfigSource = &corev1.NodeConfigSource{}
	node = must(t, r, Nodes, "", node)
	if node.Status.NodeInfo.KernelVersion != "6.1" {
		t.Error("a node's status must be taken over on create")
	}
	if len(node.Spec.PodCIDRs) != 1 || node.Spec.PodCIDRs[0] != "10.1.0.0/24" {
		t.Errorf("podCIDRs %v, want podCIDR's value", node.Spec.PodCIDRs)
	}
	if node.Spec.ConfigSource != nil {
		t.Error("configSource of a removed feature was kept")
	}
}

func TestCreateRefusals(t *testing.T) {
	r := newRegistry(t)
	must(t, r, Pods, "default", newPod("taken"))
	leaving := newPod("leaving")
	leaving.Finalizers = []string{"example.org/wait"}
	must(t, r, Pods, "default", leaving)
	if _, _, err := r.Delete(t.Context(), Pods, "default", "leaving", nil); err != nil {
		t.Fatal(err)
	}
	versioned := newPod("versioned")
	versioned.ResourceVersion = "3"
	elsewhere := newPod("elsewhere")
	elsewhere.Namespace = "other"

	for _, test := range []struct {
		name    string
		pod     *corev1.Pod
		code    int32
		message string
	}{
		{"a taken name", newPod("taken"), 409, `pods "taken" already exists`},
		{"a name that is being deleted", newPod("leaving"), 409, `object is being deleted: pods "leaving" already exists`},
		{"a resourceVersion", versioned, 400, `resourceVersion should not be set on objects to be created`},
		{"another namespace", elsewhere, 400, `the namespace of the provided object does not match the namespace sent on the request`},
		{"no name", newPod(""), 422, `Pod "" is invalid: metadata.name: Required value: name or generateName is required`},
		{"a name that is a path", newPod("a/../b"), 422, `a lowercase RFC 1123 subdomain must consist of`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := r.Create(t.Context(), Pods, "default", test.pod, CreateOptions{})
			status, ok := err.(apierrors.APIStatus)
			if !ok {
				t.Fatalf("error %v, want an API status", err)
			}
			if status.Status().Code != test.code || !strings.Contains(status.Status().Message, test.message) {
				t.Errorf("%d %q, want %d %q", status.Status().Code, status.Status().Message, test.code, test.message)
			}
		})
	}
}

func TestInvalidObjectsNameEveryField(t *testing.T) {
	r := newRegistry(t)
	pod := newPod("web")
	pod.Labels = map[string]string{"bad label!": "x"}
	pod.Spec.RestartPolicy = "Sometimes"
	pod.Spec.Containers = []corev1.Container{
		{Name: "UPPER", Image: "i", ImagePullPolicy: "Never"},
		{Name: "web", Image: " ", Ports: []corev1.ContainerPort{{ContainerPort: 70000}}},
		{Name: "web", Image: "i"},
	}
	_, err := r.Create(t.Context(), Pods, "default", pod, CreateOptions{})
	if !apierrors.IsInvalid(err) {
		t.Fatalf("error %v, want 422", err)
	}
	want := []string{
		"metadata.labels: FieldValueInvalid",
		"spec.containers[0].name: FieldValueInvalid",
		"spec.containers[1].image: FieldValueInvalid",
		"spec.containers[1].ports[0].containerPort: FieldValueInvalid",
		"spec.containers[2].name: FieldValueDuplicate",
		"spec.restartPolicy: FieldValueNotSupported",
	}
	if got := causes(err); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("causes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	rc := newRC("web", -1)
	rc.Spec.Template.Labels = map[string]string{"other": "label"}
	_, err = r.Create(t.Context(), ReplicationControllers, "default", rc, CreateOptions{})
	want = []string{"spec.replicas: FieldValueInvalid", "spec.template.metadata.labels: FieldValueInvalid"}
	if got := causes(err); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("causes %v, want %v", got, want)
	}
}

// A generated name can be taken. Provoked by a generator with few names.
func TestGeneratedNamesAreTriedAgain(t *testing.T) {
	few := *Pods
	generator := &counter{}
	strategy := *Pods.Strategy
	strategy.NameGenerator = generator
	few.Strategy = &strategy

	r := newRegistry(t)
	generate := func() (*corev1.Pod, error) {
		pod := newPod("")
		pod.GenerateName = "web-"
		obj, err := r.Create(t.Context(), &few, "default", pod, CreateOptions{})
		if err != nil {
			return nil, err
		}
		return obj.(*corev1.Pod), nil
	}
	for i := range 3 {
		must(t, r, Pods, "default", newPod(fmt.Sprint("web-", i)))
	}
	pod, err := generate()
	if err != nil || pod.Name != "web-3" {
		t.Fatalf("pod %v, error %v; want web-3 at the fourth try", pod, err)
	}
	for i := 4; i < 4+generatedNames; i++ {
		must(t, r, Pods, "default", newPod(fmt.Sprint("web-", i)))
	}
	before := generator.n
	_, err = generate()
	if !apierrors.IsAlreadyExists(err) || generator.n-before != generatedNames {
		t.Errorf("error %v after %d tries, want AlreadyExists after %d", err, generator.n-before, generatedNames)
	}
	if seconds, ok := apierrors.SuggestsClientDelay(err); !ok || seconds != 1 {
		t.Errorf("error %v, want the advice to try again in a second", err)
	}
}

type counter struct{ n int }

func (c *counter) GenerateName(base string) string {
	c.n++
	return fmt.Sprint(base, c.n-1)
}

func TestDryRunWritesNothing(t *testing.T) {
	r := newRegistry(t)
	must(t, r, Pods, "default", newPod("there"))
	must(t, r, ReplicationControllers, "default", newRC("web", 1))
	before := r.store.Revision()

	if pod, err := r.Create(t.Context(), Pods, "default", newPod("new"), CreateOptions{DryRun: true}); err != nil || pod.GetUID() == "" {
		t.Errorf("create: %v, %v; want a whole pod", pod, err)
	}
	if _, err := r.Create(t.Context(), Pods, "default", newPod("there"), CreateOptions{DryRun: true}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("create of what exists: %v, want AlreadyExists", err)
	}
	obj, _, err := r.Update(t.Context(), Pods, "default", "there", "", func(current store.Object) (store.Object, error) {
		current.SetLabels(map[string]string{"a": "b"})
		return current, nil
	}, UpdateOptions{DryRun: true})
	if err != nil || obj.GetLabels()["a"] != "b" {
		t.Errorf("update: %v, %v; want the label", obj, err)
	}
	if _, gone, err := r.Delete(t.Context(), Pods, "default", "there", &metav1.DeleteOptions{DryRun: []string{"All"}}); err != nil || !gone {
		t.Errorf("delete: gone %t, %v", gone, err)
	}
	orphan := metav1.DeletePropagationOrphan
	if obj, gone, err := r.Delete(t.Context(), ReplicationControllers, "default", "web", &metav1.DeleteOptions{DryRun: []string{"All"}, PropagationPolicy: &orphan}); err != nil || gone || obj.GetDeletionTimestamp() == nil {
		t.Errorf("delete of an owner: %v, gone %t, %v; want it marked", obj, gone, err)
	}
	if err := r.Bind(t.Context(), "default", "there", &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: "there"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n1"},
	}, CreateOptions{DryRun: true}); err != nil {
		t.Errorf("bind: %v", err)
	}
	if after := r.store.Revision(); after != before {
		t.Errorf("revision %d, want %d as before", after, before)
	}
}

// kubectl diff compares what a dry run answers with what is stored. An empty
// list and none are the same once they are stored, so they are in both.
func TestDryRunAnswersWhatWouldBeRead(t *testing.T) {
	r := newRegistry(t)
	role := func() *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: named("x"), Rules: []rbacv1.PolicyRule{}}
	}
	created, err := r.Create(t.Context(), ClusterRoles, "", role(), CreateOptions{DryRun: true})
	if err != nil || created.(*rbacv1.ClusterRole).Rules != nil {
		t.Errorf("create: %#v, %v; want no rules", created, err)
	}
	stored := must(t, r, ClusterRoles, "", role())
	updated, _, err := r.Update(t.Context(), ClusterRoles, "", "x", "", func(current store.Object) (store.Object, error) {
		current.(*rbacv1.ClusterRole).Rules = []rbacv1.PolicyRule{}
		return current, nil
	}, UpdateOptions{DryRun: true})
	if err != nil || updated.(*rbacv1.ClusterRole).Rules != nil || updated.GetResourceVersion() != stored.GetResourceVersion() {
		t.Errorf("update: %#v, %v; want no rules at revision %s", updated, err, stored.GetResourceVersion())
	}
}

// Events are stored in one group and served in two.
func TestErrorsNameTheGroupThatWasAskedFor(t *testing.T) {
	r := newRegistry(t)
	for want, kind := range map[string]*Kind{`events "x" not found`: Events, `events.events.k8s.io "x" not found`: eventsV1} {
		if _, _, err := r.Delete(t.Context(), kind, "default", "x", &metav1.DeleteOptions{}); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestRepeatedOwnersAreDroppedWithAWarning(t *testing.T) {
	r := newRegistry(t)
	owner := metav1.OwnerReference{APIVersion: "v1", Kind: "ReplicationController", Name: "web", UID: "u1"}
	pod := newPod("web")
	pod.OwnerReferences = []metav1.OwnerReference{owner, owner, {APIVersion: "v1", Kind: "ReplicationController", Name: "other", UID: "u2"}}
	recorder := &warnings{}
	got, err := r.Create(warning.WithWarningRecorder(t.Context(), recorder), Pods, "default", pod, CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.GetOwnerReferences()); n != 2 {
		t.Errorf("%d owners, want 2", n)
	}
	if len(recorder.texts) != 1 || !strings.Contains(recorder.texts[0], "duplicate UID(s) observed: u1") {
		t.Errorf("warnings %q, want one about u1", recorder.texts)
	}
}

type warnings struct{ texts []string }

func (w *warnings) AddWarning(_, text string) { w.texts = append(w.texts, text) }

// What admission relied on may change between its look and the write. Provoked
// by a check that demands a revision which is overtaken in between.
func TestCreateIsOneWithWhatAdmissionReliedOn(t *testing.T) {
	r := newRegistry(t)
	node := must(t, r, Nodes, "", newNode("n1"))
	looks := 0
	r.admission = demanding(func(a *Attributes) error {
		if a.Kind != Pods {
			return nil
		}
		looks++
		guard, err := revision(stored[*corev1.Node](t, r, Nodes, "", node.Name))
		if looks == 1 {
			change(t, r, Nodes, "", "n1", "", func(n *corev1.Node) { n.Labels = map[string]string{"moved": "on"} })
		}
		a.Demands = append(a.Demands, store.Write{Verb: store.Check, Spec: store.Nodes, Name: "n1", Guard: guard})
		return err
	})
	pod := must(t, r, Pods, "default", newPod("web"))
	if looks != 2 {
		t.Errorf("admission looked %d times, want 2", looks)
	}
	if got := stored[*corev1.Pod](t, r, Pods, "default", "web"); got == nil || got.UID != pod.UID {
		t.Errorf("stored %v, want the pod", got)
	}
	_, err := r.Create(t.Context(), Pods, "default", newPod("web"), CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		t.Errorf("second create: %v, want AlreadyExists", err)
	}
}

// demanding is admission that only validates.
type demanding func(*Attributes) error

func (demanding) Admit(context.Context, *Attributes) error          { return nil }
func (d demanding) Validate(_ context.Context, a *Attributes) error { return d(a) }

// witness keeps what admission is told, and whether it hears that writes are over.
type witness struct {
	dryRuns     []bool
	begun, over int
}

func (w *witness) Admit(_ context.Context, a *Attributes) error {
	w.dryRuns = append(w.dryRuns, a.DryRun)
	return nil
}

func (w *witness) Validate(_ context.Context, a *Attributes) error {
	w.dryRuns = append(w.dryRuns, a.DryRun)
	w.begun++
	a.Tried = append(a.Tried, func() { w.over++ })
	return nil
}

// Webhooks must take nothing in a rehearsal for real, also not what was not asked for as
// a dry run, as what controllers write.
func TestAdmissionIsToldThatARehearsalIsADryRun(t *testing.T) {
	seen := &witness{}
	r := New(storetest.New(t), seen).Rehearsing()
	must(t, r, Pods, "default", newPod("web"))
	if _, _, err := r.Update(t.Context(), Pods, "default", "web", "", func(obj store.Object) (store.Object, error) {
		obj.SetLabels(map[string]string{"a": "b"})
		return obj, nil
	}, UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	options := &corev1.PodExecOptions{}
	if err := r.Connect(t.Context(), Pods, "default", "web", "exec", corev1.SchemeGroupVersion.WithKind("PodExecOptions"), options); err != nil {
		t.Fatal(err)
	}
	if len(seen.dryRuns) != 6 || slices.Contains(seen.dryRuns, false) {
		t.Errorf("admission was told of dry runs: %v, want six times true", seen.dryRuns)
	}
	if got := stored[*corev1.Pod](t, r, Pods, "default", "web"); got == nil || got.Labels["a"] != "b" {
		t.Errorf("stored %v, want what was written", got)
	}
}

// unwanted is a schema that lets nothing be created.
type unwanted struct{ Schema }

func (unwanted) Demand(*store.Store, store.Object) (store.Write, error) {
	return store.Write{}, errors.New("the definition is gone")
}

// Others may wait for their turn until a write is over.
func TestAdmissionHearsOfACreateThatItsSchemaRefuses(t *testing.T) {
	seen := &witness{}
	kind := *ConfigMaps
	kind.Schema = unwanted{}
	attributes := &Attributes{Operation: Create, Kind: &kind, Namespace: "default"}
	obj := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}}
	if _, err := New(storetest.New(t), seen).insert(genericrequest.WithNamespace(t.Context(), "default"), &kind, obj, attributes); err == nil {
		t.Fatal("it was created")
	}
	if seen.begun != 1 || seen.over != 1 {
		t.Errorf("%d writes were allowed and %d over, want one each", seen.begun, seen.over)
	}
}
