package resource

import (
	"context"
	"slices"
	"testing"

	"go.uber.org/goleak"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
	"github.com/musterhq/muster/fsm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newRegistry is a registry over an empty store, without admission.
func newRegistry(t testing.TB) *Registry {
	t.Helper()
	return New(storetest.New(t), AdmitAll{})
}

func newPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "example.org/web:1"}}},
	}
}

func newRC(name string, replicas int32) *corev1.ReplicationController {
	labels := map[string]string{"app": name}
	return &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ReplicationControllerSpec{
			Replicas: &replicas,
			Selector: labels,
			Template: &corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       newPod("").Spec,
			},
		},
	}
}

func newNode(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// namespaceOf is where examples of a kind are put.
func namespaceOf(kind *Kind) string {
	if kind.Namespaced() {
		return "default"
	}
	return ""
}

// must creates obj and returns it as stored.
func must[T store.Object](t testing.TB, r *Registry, kind *Kind, ns string, obj T) T {
	t.Helper()
	created, err := r.Create(t.Context(), kind, ns, obj, CreateOptions{})
	if err != nil {
		t.Fatalf("create %s %s: %v", kind.Singular, obj.GetName(), err)
	}
	return created.(T)
}

// stored reads an object, or nil.
func stored[T store.Object](t testing.TB, r *Registry, kind *Kind, ns, name string) (obj T) {
	t.Helper()
	got, err := r.store.Table(kind.Spec).Get(t.Context(), ns, name)
	if err == nil {
		obj = got.(T)
	}
	return obj
}

// change is an Update that cannot fail.
func change[T store.Object](t testing.TB, r *Registry, kind *Kind, ns, name, subresource string, f func(T)) T {
	t.Helper()
	obj, _, err := r.Update(t.Context(), kind, ns, name, subresource, func(current store.Object) (store.Object, error) {
		f(current.(T))
		return current, nil
	}, UpdateOptions{})
	if err != nil {
		t.Fatalf("update %s %s: %v", kind.Singular, name, err)
	}
	return obj.(T)
}

// replace is the Change of a PUT.
func replace(obj store.Object) Change {
	return func(store.Object) (store.Object, error) { return obj.DeepCopyObject().(store.Object), nil }
}

// causes are the field paths and reasons of a 422.
func causes(err error) []string {
	status, ok := err.(apierrors.APIStatus)
	if !ok || status.Status().Details == nil {
		return nil
	}
	var all []string
	for _, c := range status.Status().Details.Causes {
		all = append(all, c.Field+": "+string(c.Type))
	}
	slices.Sort(all)
	return all
}

// lagging is a store on a follower: it holds what the leader's store has
// written only after a write of its own, or a barrier.
type lagging struct {
	leader, follower *fsm.Machine
	behind           [][]byte
	barriers         int
}

// newLagging returns the two stores of a cluster, and the way between them.
func newLagging() (leader, follower *store.Store, l *lagging) {
	l = &lagging{leader: fsm.New(fsm.Config{}), follower: fsm.New(fsm.Config{})}
	return store.New(leaderLog{l}, l.leader), store.New(l, l.follower), l
}

func (l *lagging) catchUp() error {
	for _, cmd := range l.behind {
		if _, err := l.follower.ApplyOne(cmd); err != nil {
			return err
		}
	}
	l.behind = nil
	return nil
}

func (l *lagging) Propose(ctx context.Context, cmd []byte) ([]byte, error) {
	answer, err := leaderLog{l}.Propose(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return answer, l.catchUp()
}

func (l *lagging) ReadBarrier(context.Context) error {
	l.barriers++
	return l.catchUp()
}

type leaderLog struct{ *lagging }

func (l leaderLog) Propose(_ context.Context, cmd []byte) ([]byte, error) {
	l.behind = append(l.behind, cmd)
	return l.leader.ApplyOne(cmd)
}

func (l leaderLog) ReadBarrier(context.Context) error { return nil }

type scaleObject = autoscalingv1.Scale
