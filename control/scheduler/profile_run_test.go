package scheduler_test

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	test "github.com/musterhq/muster/control/controller/controllertest"
	kinds "github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/scheduler"
	"github.com/musterhq/muster/control/store"
	"github.com/musterhq/muster/control/store/storetest"
)

const profileHead = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n"

// A file that is set holds at once and whoever leads: pods of its profiles are taken up,
// those of one that it lacks are left alone.
func TestProfilesAreTheClusters(t *testing.T) { synctest.Test(t, testProfilesAreTheClusters) }

func testProfilesAreTheClusters(t *testing.T) {
	s := storetest.New(t)
	m := begin(t, s)
	file := scheduler.ProfileFile{Store: s}
	set := func(text string) {
		t.Helper()
		if err := file.Set(t.Context(), []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	pod := func(name, by string) *corev1.Pod {
		p := test.Pod(name)
		p.Spec.SchedulerName = by
		return p
	}
	test.Create(m, kinds.Nodes, test.Node("n"))
	test.Create(m, kinds.Pods, pod("p1", "batch"))
	settledAfter(m, time.Minute)
	wantBound(t, m, 0)
	set(profileHead + "- schedulerName: batch\n")
	wantBound(t, m, 1)
	settledAfter(m, time.Minute)
	said := ""
	for _, e := range test.List[*corev1.Event](m, store.Events) {
		if e.Reason == "Scheduled" {
			said = e.Source.Component + e.ReportingController
		}
	}
	if said != "batchbatch" && said != "batch" {
		t.Errorf("the event is from %q, want batch", said)
	}
	m.End()

	next := begin(t, s)
	test.Create(next, kinds.Pods, pod("p2", "batch"))
	wantBound(t, next, 2)
	set(profileHead + "- schedulerName: other\n")
	test.Create(next, kinds.Pods, pod("p3", "batch"))
	settledAfter(next, time.Minute)
	wantBound(t, next, 2)
	// What nobody can read changes nothing.
	set("profiles of tomorrow")
	test.Create(next, kinds.Pods, pod("p4", "other"))
	wantBound(t, next, 3)
	if err := file.Set(t.Context(), nil); err != nil || file.Get() != nil {
		t.Errorf("got %v and %q, want no file", err, file.Get())
	}
	if err := file.Set(t.Context(), nil); err != nil {
		t.Errorf("again: %v", err)
	}
	test.Create(next, kinds.Pods, pod("p5", "other"))
	test.Create(next, kinds.Pods, pod("p6", corev1.DefaultSchedulerName))
	wantBound(t, next, 4)
	settledAfter(next, time.Minute)
	wantBound(t, next, 4)
}

func TestStatusOfProfilesNamesWhatHasNone(t *testing.T) {
	synctest.Test(t, testStatusOfProfilesNamesWhatHasNone)
}

func testStatusOfProfilesNamesWhatHasNone(t *testing.T) {
	s := storetest.New(t)
	if err := (scheduler.ProfileFile{Store: s}).Set(t.Context(), []byte(profileHead+"- {schedulerName: batch, percentageOfNodesToScore: 7}\n")); err != nil {
		t.Fatal(err)
	}
	m := test.Begin(t, s)
	it := scheduler.New(scheduler.Config{Registry: m.Registry, Caches: m.Caches, Events: m.Events, Logger: m.Logger})
	m.Run(it.Run)
	for _, by := range []string{"batch", "batsh", "batsh"} {
		p := test.Pod("")
		p.GenerateName, p.Spec.SchedulerName = "p-", by
		test.Create(m, kinds.Pods, p)
	}
	settledAfter(m, time.Minute)
	got, err := it.Profiles(t.Context())
	if err != nil || len(got) != 3 || got[0].Name != "batch" || got[0].Waiting != 1 || got[0].Configuration.PercentageOfNodesToScore != 7 ||
		got[1].Name != "batsh" || got[1].Waiting != 2 || got[1].Configuration != nil || got[2].Name != corev1.DefaultSchedulerName || got[2].Waiting != 0 {
		t.Errorf("got %+v, %v, want one for batch, two for batsh, which is none, and none for default-scheduler", got, err)
	}
	m.End()
}

func TestProfileChangesAreNamed(t *testing.T) {
	read := func(text string) []byte { return []byte(profileHead + text) }
	before, err := scheduler.Configurations(read("- schedulerName: a\n- schedulerName: b\n- schedulerName: c\n"))
	if err != nil {
		t.Fatal(err)
	}
	after, err := scheduler.Configurations(read("- schedulerName: b\n- {schedulerName: c, percentageOfNodesToScore: 5}\n- schedulerName: d\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]scheduler.ProfileChangeKind{
		"a": scheduler.ProfileRemoved, "b": scheduler.ProfileUnchanged, "c": scheduler.ProfileChanged, "d": scheduler.ProfileAdded,
		corev1.DefaultSchedulerName: scheduler.ProfileUnchanged,
	}
	changes := scheduler.ProfileChanges(before, after)
	for _, c := range changes {
		if c.Kind != want[c.Name] {
			t.Errorf("%s: %s, want %s", c.Name, c.Kind, want[c.Name])
		}
	}
	if len(changes) != len(want) {
		t.Errorf("%d changes, want %d", len(changes), len(want))
	}
}
