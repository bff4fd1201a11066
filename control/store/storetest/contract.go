package storetest

import (
	"errors"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/control/store"
)

// Run checks what a store promises, whatever log it writes through. open
// returns a store without objects in it.
func Run(t *testing.T, open func(t *testing.T) *store.Store) {
	for name, test := range map[string]func(*testing.T, *store.Store){
		"create makes an object once":                     testCreate,
		"update demands a revision":                       testUpdate,
		"update that changes nothing writes nothing":      testUpdateOfNothing,
		"delete returns the last state":                   testDelete,
		"objects have one place only":                     testInvalid,
		"pages are of one revision":                       testPages,
		"lists select by labels and fields":               testSelect,
		"watch tells every change once, in order":         testWatch,
		"watch turns updates into what the selector sees": testWatchSelects,
		"a batch answers each write":                      testBatch,
		"a transaction is all or nothing":                 testTxn,
		"a claim has one holder":                          testClaims,
		"system keys are apart":                           testSystem,
		"concurrent updates lose nothing":                 testConcurrentUpdates,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// Pod returns a small pod.
func Pod(namespace, name string, change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID("uid-of-" + name),
			Labels: map[string]string{"app": "web"},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "hello"}}},
	}
	for _, f := range change {
		f(pod)
	}
	return pod
}

func onNode(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeName = node }
}

func labelled(app string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{"app": app} }
}

func pods(s *store.Store) store.Typed[*corev1.Pod] { return store.Of[*corev1.Pod](s, store.Pods) }

func mustCreate(t *testing.T, s *store.Store, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	created, err := pods(s).Create(t.Context(), pod)
	if err != nil {
		t.Fatalf("create %s: %v", pod.Name, err)
	}
	return created
}

func mustUpdate(t *testing.T, s *store.Store, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	updated, err := pods(s).Update(t.Context(), pod, 0)
	if err != nil {
		t.Fatalf("update %s: %v", pod.Name, err)
	}
	return updated
}

func wantError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: error %v, want %v", what, got, want)
	}
}

func revision(t *testing.T, obj metav1.Object) uint64 {
	t.Helper()
	r, err := strconv.ParseUint(obj.GetResourceVersion(), 10, 64)
	if err != nil {
		t.Fatalf("resourceVersion of %s: %v", obj.GetName(), err)
	}
	return r
}
