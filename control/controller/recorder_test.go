package controller_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	test "github.com/musterhq/muster/control/controller/controllertest"
	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

func TestSameEventIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		m.Run()
		pod := test.Create(m, resource.Pods, test.Pod("p"))
		source := m.Events.Source("tester")
		began := time.Now()
		for range 5 {
			source.Event(store.Pods, pod, corev1.EventTypeNormal, "Same", "the same")
			time.Sleep(time.Second)
		}
		for range 2 {
			for range 3 { // before the recorder can look
				source.Event(store.Pods, pod, corev1.EventTypeWarning, "Other", "another")
			}
			time.Sleep(time.Second)
		}
		time.Sleep(time.Second)
		got := map[string]*corev1.Event{}
		for _, e := range test.List[*corev1.Event](m, store.Events) {
			got[e.Reason] = e
		}
		if len(got) != 2 || got["Same"].Count != 5 || got["Other"].Count != 6 {
			t.Fatalf("events %+v, want Same with 5 and Other with 6", got)
		}
		e := got["Same"]
		if !e.FirstTimestamp.Time.Equal(began.Truncate(time.Second)) || !e.LastTimestamp.Time.Equal(began.Add(4*time.Second).Truncate(time.Second)) {
			t.Errorf("from %v to %v, want 4 seconds from %v", e.FirstTimestamp, e.LastTimestamp, began)
		}
		if about := e.InvolvedObject; about.Kind != "Pod" || about.APIVersion != "v1" || about.Name != "p" || about.Namespace != "default" || about.UID != pod.UID {
			t.Errorf("about %+v, want the pod", about)
		}
		if e.Namespace != "default" || !strings.HasPrefix(e.Name, "p.") || e.Source.Component != "tester" || e.Type != corev1.EventTypeNormal {
			t.Errorf("event %+v, want default/p.… from tester", e)
		}
		m.End()
	})
}

func TestEventsAboutNodesAreInDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		m.Run()
		node := test.Create(m, resource.Nodes, test.Node("n"))
		m.Events.Source("tester").Event(store.Nodes, node, corev1.EventTypeNormal, "R", "m")
		time.Sleep(time.Second)
		if all := test.List[*corev1.Event](m, store.Events); len(all) != 1 || all[0].Namespace != "default" || all[0].InvolvedObject.Namespace != "" {
			t.Errorf("events %+v, want one in default about an object in no namespace", all)
		}
		m.End()
	})
}

// One object with a hundred stories must not fill the store, nor keep others
// from telling theirs.
func TestTalkativeObjectsAreCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		m.Run()
		loud, calm := test.Create(m, resource.Pods, test.Pod("loud")), test.Create(m, resource.Pods, test.Pod("calm"))
		source := m.Events.Source("tester")
		for i := range 100 {
			source.Event(store.Pods, loud, corev1.EventTypeNormal, "R", fmt.Sprint(i))
		}
		source.Event(store.Pods, calm, corev1.EventTypeNormal, "R", "m")
		time.Sleep(time.Second)
		if n := len(test.List[*corev1.Event](m, store.Events)); n != 26 {
			t.Errorf("%d events, want 25 about one and 1 about the other", n)
		}
		time.Sleep(time.Hour)
		source.Event(store.Pods, loud, corev1.EventTypeNormal, "R", "later")
		time.Sleep(time.Second)
		if n := len(test.List[*corev1.Event](m, store.Events)); n != 27 {
			t.Errorf("%d events, want 27: an hour later it may speak again", n)
		}
		m.End()
	})
}

// The stored event is deleted: the next of the kind is a new one, not an update
// of nothing.
func TestExpiredEventIsWrittenAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := test.Begin(t, storetest.New(t))
		m.Run()
		pod := test.Create(m, resource.Pods, test.Pod("p"))
		tell := func() {
			m.Events.Source("tester").Event(store.Pods, pod, corev1.EventTypeNormal, "R", "m")
			time.Sleep(time.Second)
		}
		tell()
		first := test.List[*corev1.Event](m, store.Events)[0]
		m.Delete(resource.Events, "default", first.Name)
		tell()
		all := test.List[*corev1.Event](m, store.Events)
		if len(all) != 1 || all[0].Name == first.Name || all[0].Count != 1 || all[0].InvolvedObject.UID != pod.UID {
			t.Errorf("events %+v, want a new one", all)
		}
		m.End()
	})
}

// Nothing may wait for an event: not when the store refuses, and not when more
// come than can be held.
func TestEventsNeverHoldAnyoneUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, log, _ := storetest.Open(t)
		m := test.Begin(t, s)
		log.Refuse(errors.New("no quorum"))
		m.Run()
		source := m.Events.Source("tester")
		for i := range 20_000 {
			pod := test.Pod(fmt.Sprint("p", i))
			pod.UID = types.UID(fmt.Sprint("uid-", i))
			source.Event(store.Pods, pod, corev1.EventTypeNormal, "R", "m")
		}
		time.Sleep(time.Second)
		log.Refuse(nil)
		pod := test.Create(m, resource.Pods, test.Pod("p"))
		source.Event(store.Pods, pod, corev1.EventTypeNormal, "R", "m")
		time.Sleep(time.Second)
		if all := test.List[*corev1.Event](m, store.Events); len(all) != 1 {
			t.Errorf("%d events, want the one that could be written", len(all))
		}
		m.End()
	})
}
