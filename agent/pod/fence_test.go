package pod

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/agent/runtime/hollow"
	"github.com/musterhq/muster/proto/agent/fencing"
)

func guarded(pod *corev1.Pod) *corev1.Pod {
	pod.Annotations = map[string]string{fencing.PodAnnotation: "true"}
	return pod
}

// Only what must not run twice stops, within the grace that was promised,
// however long a one it asks for; and goes on when it may.
func TestClosedFenceStopsGuardedPods(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		deaf := guarded(newPod("deaf", command("main", "sh", "-c", "trap '' TERM; serve")))
		deaf.Spec.TerminationGracePeriodSeconds = new(int64(600))
		free := newPod("free", command("main", "serve"))
		ending := guarded(newPod("ending", command("main", "sh", "-c", "trap '' TERM; serve")))
		for _, pod := range []*corev1.Pod{deaf, free, ending} {
			b.manager.Put(pod)
		}
		b.wait(time.Second)
		b.manager.Put(deleted(ending, 600))
		b.wait(time.Second)

		b.manager.SetFence(Unclear)
		b.wait(time.Minute)
		if b.running(deaf.UID, "main") == nil {
			t.Error("stopped while nothing is clear")
		}
		b.manager.SetFence(Closed)
		b.wait(fencing.StopGrace - time.Second)
		if b.running(deaf.UID, "main") == nil {
			t.Error("stopped before its grace was over")
		}
		b.wait(2 * time.Second)
		for _, pod := range []*corev1.Pod{deaf, ending} {
			if b.running(pod.UID, "main") != nil {
				t.Errorf("%s runs behind a closed fence", pod.Name)
			}
		}
		b.nothing(ending.UID)
		if b.running(free.UID, "main") == nil {
			t.Error("a pod that may run twice was stopped")
		}
		b.wait(time.Hour)
		if b.running(deaf.UID, "main") != nil {
			t.Error("started again behind a closed fence")
		}
		b.manager.SetFence(Open)
		b.wait(time.Second)
		if b.running(deaf.UID, "main") == nil {
			t.Error("does not run although it may again")
		}
		if s := b.said.of(deaf.UID); condition(s, corev1.PodReady) != corev1.ConditionTrue || s.ContainerStatuses[0].RestartCount != 1 {
			t.Errorf("status %+v, want it ready and restarted once", s)
		}
	})
}

// An agent that starts knows from disk what should run, and not whether it has
// been replaced.
func TestGuardedPodIsNotStartedFromDisk(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod, free := guarded(newPod("p", command("main", "serve"))), newPod("free", command("main", "serve"))
		b.manager.Put(pod)
		b.manager.Put(free)
		b.wait(time.Second)
		b.stop()
		b.runtime = b.newRuntime() // a reboot
		b.start()
		b.manager.SetFence(Unclear)
		b.wait(unsureFor + time.Second)
		if b.running(free.UID, "main") == nil {
			t.Error("a pod that may run twice was not started")
		}
		for _, fence := range []Fence{Unclear, Closed} {
			b.manager.SetFence(fence)
			b.wait(time.Minute)
			if len(b.containers(pod.UID)) > 0 {
				t.Errorf("a guarded pod was started behind fence %v", fence)
			}
		}
		b.manager.SetFence(Open)
		b.wait(time.Second)
		if b.running(pod.UID, "main") == nil {
			t.Error("does not run although it may again")
		}
	})
}

// A pod that is in the middle of its start when the fence closes must not come up
// behind it.
func TestClosedFenceInterruptsAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, dir: t.TempDir(), said: &said{statuses: map[types.UID]*corev1.PodStatus{}}}
		b.runtime = hollow.New(hollow.Config{PullDelay: time.Minute, StartDelay: time.Second})
		if err := b.runtime.SetPodCIDR("10.1.0.0/24"); err != nil {
			t.Fatal(err)
		}
		b.start()
		pod := guarded(newPod("p", command("main", "serve")))
		b.manager.Put(pod)
		b.wait(time.Minute + 500*time.Millisecond)
		b.manager.SetFence(Closed)
		for range 100 {
			b.wait(time.Second)
			if b.running(pod.UID, "main") != nil {
				t.Fatal("runs behind a closed fence")
			}
		}
		b.stop()
	})
}

// Nobody knows what it is that runs there.
func TestClosedFenceStopsWhatIsUnknown(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod := newPod("p", command("main", "serve"))
		b.manager.Put(pod)
		b.wait(time.Second)
		b.stop()
		b.dir = t.TempDir()
		b.start()
		b.wait(time.Minute)
		if b.running(pod.UID, "main") == nil {
			t.Fatal("stopped before the fence closed")
		}
		b.manager.SetFence(Closed)
		b.wait(fencing.StopGrace + time.Second)
		if b.running(pod.UID, "main") != nil {
			t.Error("runs behind a closed fence")
		}
	})
}
