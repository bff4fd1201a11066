package statefulset

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/control/controller"
)

// An outlook has pods come in the order of the controller, the missing ones upwards and
// the updated ones downwards, with the claims that are not there yet.
func TestOutlookFollowsTheOrdinals(t *testing.T) {
	w := makeWorld(4)
	present, err := presentRevision(w.set, nil)
	if err != nil {
		t.Fatal(err)
	}
	pod := func(ordinal int, revision string) *corev1.Pod {
		p := podOf(w.set, w.update, ordinal)
		p.UID = "there"
		p.Labels[appsv1.StatefulSetRevisionLabel] = revision
		return p
	}
	pods := []*corev1.Pod{pod(0, "old"), pod(1, "old"), pod(2, present.name), pod(5, "old")}
	there := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data-db-1"}}
	claim := func(name string) *corev1.PersistentVolumeClaim {
		if name == there.Name {
			return there
		}
		return nil
	}
	like := Like{Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}}, Claims: []*corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}}}}
	look := func() (controller.Outlook, []string) {
		o, err := Outlook(w.set, nil, pods, claim, like)
		if err != nil {
			t.Fatal(err)
		}
		var come []string
		for _, it := range o.Come {
			text := it.Pod.Name
			if it.Of != nil {
				text += " in place"
			}
			for _, c := range it.Claims {
				text += " with " + c.Name
			}
			if got := it.Pod.Spec.Volumes[0].PersistentVolumeClaim.ClaimName; got != "data-"+it.Pod.Name {
				t.Errorf("%s mounts %s, want its own claim", it.Pod.Name, got)
			}
			come = append(come, text)
		}
		return o, come
	}
	o, come := look()
	if want := []string{"db-3 with data-db-3", "db-1 in place", "db-0 in place with data-db-0"}; !slices.Equal(come, want) {
		t.Errorf("got %q, want %q", come, want)
	}
	if len(o.Leave) != 1 || o.Leave[0].Name != "db-5" || len(o.Stay) != 1 || !o.Ordered || o.Unavailable != 1 {
		t.Errorf("%d leave, %d stay, ordered %v, %d at a time; want db-5 to leave, db-2 to stay, ordered, 1", len(o.Leave), len(o.Stay), o.Ordered, o.Unavailable)
	}
	w.set.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To(int32(1))
	if _, come := look(); len(come) != 2 {
		t.Errorf("with partition 1 got %q, want db-0 left alone", come)
	}
	w.set.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
	if o, come := look(); len(come) != 1 || len(o.Notes) != 1 {
		t.Errorf("with OnDelete got %q and notes %q, want db-3 alone and what to do", come, o.Notes)
	}
}
