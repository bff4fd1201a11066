package pod

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/runtime/hollow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a manager on a pretended runtime, in pretended time.
type bench struct {
	t       *testing.T
	dir     string
	runtime *hollow.Runtime
	manager *Manager
	said    *said
	stop    func()
	// What pods mount and refer to; nil: nothing.
	volumes  Volumes
	contents Contents
}

// within runs a test in pretended time.
func within(t *testing.T, run func(t *testing.T, b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, dir: t.TempDir(), said: &said{statuses: map[types.UID]*corev1.PodStatus{}}}
		b.runtime = b.newRuntime()
		b.start()
		run(t, b)
		b.stop()
	})
}

func (b *bench) newRuntime() *hollow.Runtime {
	b.t.Helper()
	r := hollow.New(hollow.Config{SandboxDelay: 5 * time.Millisecond, StartDelay: 5 * time.Millisecond, PullDelay: 10 * time.Millisecond})
	if err := r.SetPodCIDR("10.1.0.0/24"); err != nil {
		b.t.Fatal(err)
	}
	return r
}

// start begins an agent's life on the bench's directory and runtime.
func (b *bench) start() {
	b.t.Helper()
	m, err := New(Config{
		Dir: b.dir, Runtime: b.runtime, Reporter: b.said, Volumes: b.volumes, Contents: b.contents, Unsynced: true, Logger: slog.New(slog.DiscardHandler),
		Node: func() Node {
			return Node{Name: "n1", Hostname: "n1", IP: "192.0.2.1", RuntimeName: "hollow", Allocatable: corev1.ResourceList{"memory": resource.MustParse("1Gi"), "cpu": resource.MustParse("2")}}
		},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	b.manager = m
	b.stop = func() {
		cancel()
		if err := <-done; err != context.Canceled {
			b.t.Errorf("Run ended with %v", err)
		}
	}
}

// restart lets the agent die and begin anew, without any control node.
func (b *bench) restart() {
	b.stop()
	b.start()
}

func (b *bench) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// containers are those of a pod by name, with all there is to know, newest first.
func (b *bench) containers(uid types.UID) map[string][]runtime.Container {
	b.t.Helper()
	found, err := b.runtime.Pod(context.Background(), string(uid))
	if err != nil {
		b.t.Fatal(err)
	}
	out := map[string][]runtime.Container{}
	for _, box := range found.Sandboxes {
		for _, c := range box.Containers {
			out[c.Name] = append(out[c.Name], c)
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(x, y runtime.Container) int { return int(y.Attempt) - int(x.Attempt) })
	}
	return out
}

func (b *bench) running(uid types.UID, name string) *runtime.Container {
	for _, c := range b.containers(uid)[name] {
		if c.State == runtime.Running {
			return &c
		}
	}
	return nil
}

// nothing wants no trace of a pod in the runtime or on disk.
func (b *bench) nothing(uid types.UID) {
	b.t.Helper()
	if found, err := b.runtime.Pod(context.Background(), string(uid)); err != nil || len(found.Sandboxes) > 0 {
		b.t.Errorf("pod %s still has %+v (%v), want nothing", uid, found.Sandboxes, err)
	}
	for _, pattern := range []string{"pods/" + string(uid) + "*", "files/" + string(uid), "logs/*_" + string(uid)} {
		if left, _ := filepath.Glob(filepath.Join(b.dir, pattern)); len(left) > 0 {
			b.t.Errorf("left on disk: %v", left)
		}
	}
}

// said is a Reporter that remembers.
type said struct {
	mu       sync.Mutex
	statuses map[types.UID]*corev1.PodStatus
	phases   []corev1.PodPhase
	gone     []types.UID
	events   []string
	count    int
}

func (s *said) Status(pod *corev1.Pod, status *corev1.PodStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.statuses[pod.UID] = status
	s.count++
	if len(s.phases) == 0 || s.phases[len(s.phases)-1] != status.Phase {
		s.phases = append(s.phases, status.Phase)
	}
}

func (s *said) Gone(_, _ string, uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = append(s.gone, uid)
}

func (s *said) Forget(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.statuses, uid)
}

func (s *said) Event(_ *corev1.ObjectReference, eventType, reason, message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, eventType+" "+reason+" "+message)
}

func (s *said) goneSoFar() []types.UID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.gone)
}

func (s *said) of(uid types.UID) *corev1.PodStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	if status := s.statuses[uid]; status != nil {
		return status
	}
	return &corev1.PodStatus{}
}

func (s *said) heard(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.events, func(e string) bool { return strings.Contains(e, text) })
}

func newPod(name string, containers ...corev1.Container) *corev1.Pod {
	grace := int64(30)
	for i := range containers {
		if containers[i].Image == "" {
			containers[i].Image = "busybox:1"
		}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name + "-uid")},
		Spec: corev1.PodSpec{
			NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace, Containers: containers,
		},
	}
}

func command(name string, args ...string) corev1.Container {
	return corev1.Container{Name: name, Command: args}
}

func deleted(pod *corev1.Pod, grace int64) *corev1.Pod {
	pod = pod.DeepCopy()
	now := metav1.Now()
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &now, &grace
	return pod
}

func condition(s *corev1.PodStatus, kind corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return "absent"
}

func TestPodRuns(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod := newPod("web", command("main", "serve"))
		b.manager.Put(pod)
		b.wait(time.Second)
		s := b.said.of(pod.UID)
		if s.Phase != corev1.PodRunning || s.PodIP == "" || s.HostIP != "192.0.2.1" || s.StartTime == nil || s.QOSClass != corev1.PodQOSBestEffort {
			t.Errorf("got %+v, want it running, with addresses, start time and class", s)
		}
		for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
			if got := condition(s, kind); got != corev1.ConditionTrue {
				t.Errorf("condition %s is %s, want True", kind, got)
			}
		}
		c := s.ContainerStatuses[0]
		if c.State.Running == nil || !c.Ready || c.Started == nil || !*c.Started || c.RestartCount != 0 || !strings.HasPrefix(c.ContainerID, "hollow://") || c.ImageID == "" {
			t.Errorf("got %+v, want a started, ready container", c)
		}
		for _, event := range []string{"Normal Pulling Pulling image \"busybox:1\"", "Normal Pulled Successfully pulled", "Normal Created", "Normal Started"} {
			if !b.said.heard(event) {
				t.Errorf("no event %q among %q", event, b.said.events)
			}
		}
		// A start that takes no time to speak of is one status.
		if b.said.count != 1 {
			t.Errorf("%d statuses were said, want 1", b.said.count)
		}
	})
}

// The first restart is at once; then 10 s, 20 s, and so on to 5 min.
func TestRestartsBackOff(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod := newPod("crash", command("main", "false"))
		b.manager.Put(pod)
		b.wait(time.Second)
		began := time.Now()
		var delays []time.Duration
		seen := uint32(1)
		if got := b.containers(pod.UID)["main"][0].Attempt; got != seen {
			t.Fatalf("after a second it is run %d, want run 1: the first restart is at once", got)
		}
		for len(delays) < 7 {
			b.wait(time.Second)
			if now := b.containers(pod.UID)["main"][0].Attempt; now != seen {
				delays = append(delays, time.Since(began).Round(10*time.Second))
				seen, began = now, time.Now()
			}
		}
		want := []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 300 * time.Second, 300 * time.Second}
		if !slices.Equal(delays, want) {
			t.Errorf("restarts were %v apart, want %v", delays, want)
		}
		b.wait(time.Second)
		s := b.said.of(pod.UID)
		c := s.ContainerStatuses[0]
		if c.State.Waiting == nil || c.State.Waiting.Reason != "CrashLoopBackOff" || !strings.HasPrefix(c.State.Waiting.Message, "back-off 5m0s restarting failed container=main pod=crash_default(") {
			t.Errorf("got %+v, want CrashLoopBackOff", c.State)
		}
		if last := c.LastTerminationState.Terminated; last == nil || last.ExitCode != 1 || last.Reason != "Error" {
			t.Errorf("last state is %+v, want an Error with 1", last)
		}
		if s.Phase != corev1.PodRunning || c.RestartCount != int32(seen) || condition(s, corev1.PodReady) != corev1.ConditionFalse {
			t.Errorf("phase %s, %d restarts, ready %s; want Running, %d, False", s.Phase, c.RestartCount, condition(s, corev1.PodReady), seen)
		}
		if !b.said.heard("Warning BackOff Back-off restarting failed container main in pod crash_default(") {
			t.Error("no event BackOff")
		}
		if got := len(b.containers(pod.UID)["main"]); got > 2 {
			t.Errorf("%d runs are kept, want 2", got)
		}
	})
}

func TestBackOffStartsOverAfterQuiet(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod := newPod("p", command("main", "sleep", "700"))
		b.manager.Put(pod)
		for run := range uint32(4) {
			b.wait(701 * time.Second)
			if got := b.containers(pod.UID)["main"][0].Attempt; got != run+1 {
				t.Fatalf("run %d after %d ends, want a restart at once each time", got, run+1)
			}
		}
	})
}

func TestRestartPolicies(t *testing.T) {
	for _, c := range []struct {
		policy   corev1.RestartPolicy
		command  string
		phase    corev1.PodPhase
		restarts bool
	}{
		{corev1.RestartPolicyNever, "true", corev1.PodSucceeded, false},
		{corev1.RestartPolicyNever, "false", corev1.PodFailed, false},
		{corev1.RestartPolicyOnFailure, "true", corev1.PodSucceeded, false},
		{corev1.RestartPolicyOnFailure, "false", corev1.PodRunning, true},
		{corev1.RestartPolicyAlways, "true", corev1.PodRunning, true},
	} {
		t.Run(fmt.Sprintf("%s %s", c.policy, c.command), func(t *testing.T) {
			within(t, func(t *testing.T, b *bench) {
				pod := newPod("p", command("main", c.command))
				pod.Spec.RestartPolicy = c.policy
				b.manager.Put(pod)
				b.wait(5 * time.Second)
				s := b.said.of(pod.UID)
				if s.Phase != c.phase {
					t.Errorf("phase %s, want %s", s.Phase, c.phase)
				}
				runs := b.containers(pod.UID)["main"]
				if restarted := runs[0].Attempt > 0; restarted != c.restarts {
					t.Errorf("restarted: %v, want %v", restarted, c.restarts)
				}
				if !c.restarts {
					// It must stay ended, also for a new agent and in a long time.
					b.restart()
					b.wait(time.Hour)
					if got := b.containers(pod.UID)["main"]; len(got) != 1 || got[0].State != runtime.Exited {
						t.Errorf("got %+v, want the one ended run", got)
					}
					found, _ := b.runtime.Pod(t.Context(), string(pod.UID))
					if found.Sandboxes[0].Ready {
						t.Error("the sandbox of a finished pod is still there")
					}
					// Nor when the runtime has lost everything.
					b.runtime = b.newRuntime()
					b.restart()
					b.wait(time.Hour)
					if got := b.containers(pod.UID)["main"]; len(got) > 0 {
						t.Errorf("got %+v, want no second run of a finished pod", got)
					}
				}
			})
		})
	}
}

func TestInitContainersRunInOrder(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod := newPod("p", command("main", "serve"))
		pod.Spec.InitContainers = []corev1.Container{{Name: "one", Image: "i", Command: []string{"sleep", "5"}}, {Name: "two", Image: "i", Command: []string{"sleep", "5"}}}
		b.manager.Put(pod)
		for _, step := range []struct {
			running string
			not     []string
		}{{"one", []string{"two", "main"}}, {"two", []string{"one", "main"}}, {"main", []string{"one", "two"}}} {
			b.wait(3 * time.Second)
			if b.running(pod.UID, step.running) == nil {
				t.Errorf("%s does not run at its time", step.running)
			}
			for _, other := range step.not {
				if b.running(pod.UID, other) != nil {
					t.Errorf("%s runs beside %s", other, step.running)
				}
			}
			s := b.said.of(pod.UID)
			if done := step.running == "main"; (condition(s, corev1.PodInitialized) == corev1.ConditionTrue) != done || (s.Phase == corev1.PodRunning) != done {
				t.Errorf("while %s runs: phase %s, initialized %s", step.running, s.Phase, condition(s, corev1.PodInitialized))
			}
			b.wait(2500 * time.Millisecond)
		}
	})
}

func TestFailedInitContainer(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod := newPod("p", command("main", "serve"))
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		pod.Spec.InitContainers = []corev1.Container{{Name: "one", Image: "i", Command: []string{"false"}}}
		b.manager.Put(pod)
		b.wait(time.Minute)
		if s := b.said.of(pod.UID); s.Phase != corev1.PodFailed || len(b.containers(pod.UID)["main"]) > 0 {
			t.Errorf("phase %s, main %v; want Failed and no run of main", s.Phase, b.containers(pod.UID)["main"])
		}
		again := newPod("again", command("main", "serve"))
		again.Spec.InitContainers = []corev1.Container{{Name: "one", Image: "i", Command: []string{"false"}}}
		b.manager.Put(again)
		b.wait(15 * time.Second)
		s := b.said.of(again.UID)
		if s.Phase != corev1.PodPending || s.InitContainerStatuses[0].RestartCount < 2 || s.InitContainerStatuses[0].State.Waiting.Reason != "CrashLoopBackOff" {
			t.Errorf("got %+v, want the init container to be tried again", s)
		}
		if w := s.ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "PodInitializing" {
			t.Errorf("main is %+v, want it waiting: PodInitializing", s.ContainerStatuses[0].State)
		}
	})
}

func TestSidecars(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		always := corev1.ContainerRestartPolicyAlways
		pod := newPod("p", command("main", "sleep", "30"))
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		pod.Spec.InitContainers = []corev1.Container{{Name: "side", Image: "i", Command: []string{"serve"}, RestartPolicy: &always}}
		b.manager.Put(pod)
		b.wait(time.Second)
		side := b.running(pod.UID, "side")
		if side == nil || b.running(pod.UID, "main") == nil {
			t.Fatalf("got %+v, want the sidecar and main running", b.containers(pod.UID))
		}
		if err := b.runtime.End(side.ID, 1, ""); err != nil {
			t.Fatal(err)
		}
		b.wait(time.Second)
		if again := b.running(pod.UID, "side"); again == nil || again.Attempt != 1 {
			t.Errorf("got %+v, want the sidecar restarted", again)
		}
		b.wait(30 * time.Second)
		if s := b.said.of(pod.UID); s.Phase != corev1.PodSucceeded || b.running(pod.UID, "side") != nil {
			t.Errorf("phase %s, sidecar %v; want Succeeded and the sidecar ended", s.Phase, b.running(pod.UID, "side"))
		}
	})
}

func TestDeletionKeepsItsGrace(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod := newPod("p", command("deaf", "sh", "-c", "trap '' TERM; serve"), command("heeds", "serve"))
		b.manager.Put(pod)
		b.wait(time.Second)
		b.manager.Put(deleted(pod, 20))
		b.wait(19 * time.Second)
		if b.running(pod.UID, "deaf") == nil {
			t.Error("killed before its grace was over")
		}
		if b.running(pod.UID, "heeds") != nil {
			t.Error("still runs, and would have heeded")
		}
		if len(b.said.goneSoFar()) > 0 {
			t.Error("said to be gone while it runs")
		}
		b.wait(2 * time.Second)
		b.nothing(pod.UID)
		if !slices.Equal(b.said.goneSoFar(), []types.UID{pod.UID}) {
			t.Errorf("said to be gone: %v, want it once", b.said.goneSoFar())
		}
		for _, c := range b.said.of(pod.UID).ContainerStatuses {
			want := map[string]int32{"deaf": 137, "heeds": 143}[c.Name]
			if c.State.Terminated == nil || c.State.Terminated.ExitCode != want {
				t.Errorf("%s ended as %+v, want %d", c.Name, c.State, want)
			}
		}
		if !b.said.heard("Normal Killing Stopping container deaf") {
			t.Error("no event Killing")
		}
		// Its object may not have been removed: say it again, until it is.
		b.wait(goneEvery + time.Second)
		if len(b.said.goneSoFar()) != 2 {
			t.Errorf("said %d times to be gone, want it repeated", len(b.said.goneSoFar()))
		}
		b.manager.Remove(pod.UID)
		b.wait(time.Hour)
		if len(b.said.goneSoFar()) != 2 || b.manager.Count() != 0 {
			t.Errorf("said %d times, %d workers; want no more of either", len(b.said.goneSoFar()), b.manager.Count())
		}
	})
}

func TestAShorterGraceCutsTheLongerShort(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		for _, c := range []struct {
			name string
			cut  func(*corev1.Pod)
		}{
			{"deleted", func(p *corev1.Pod) { b.manager.Put(deleted(p, 1)) }},
			{"removed", func(p *corev1.Pod) { b.manager.Remove(p.UID) }},
		} {
			pod := newPod(c.name, command("deaf", "sh", "-c", "trap '' TERM; serve"))
			b.manager.Put(pod)
			b.wait(time.Second)
			b.manager.Put(deleted(pod, 600))
			b.wait(10 * time.Second)
			c.cut(pod)
			b.wait(2 * time.Second)
			b.nothing(pod.UID)
		}
	})
}

// A pull can take long; a deletion must not wait for it.
func TestDeletionInterruptsAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, dir: t.TempDir(), said: &said{statuses: map[types.UID]*corev1.PodStatus{}}}
		b.runtime = hollow.New(hollow.Config{PullDelay: time.Hour})
		if err := b.runtime.SetPodCIDR("10.1.0.0/24"); err != nil {
			t.Fatal(err)
		}
		b.start()
		pod := newPod("p", command("main", "serve"))
		b.manager.Put(pod)
		b.wait(time.Minute)
		if s := b.said.of(pod.UID); s.Phase != corev1.PodPending || s.ContainerStatuses[0].State.Waiting.Reason != "ContainerCreating" {
			t.Errorf("while pulling: got %+v, want ContainerCreating", s)
		}
		b.manager.Put(deleted(pod, 30))
		b.wait(time.Second)
		b.nothing(pod.UID)
		b.stop()
	})
}

// With no control node answering, a new agent must find what runs, leave it
// running, and restart what ended meanwhile.
func TestAgentRestartsFromDisk(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		steady := newPod("steady", command("main", "serve"))
		ends := newPod("ends", command("main", "serve"))
		b.manager.Put(steady)
		b.manager.Put(ends)
		b.wait(time.Second)
		id := b.running(steady.UID, "main").ID
		b.stop()
		if err := b.runtime.End(b.running(ends.UID, "main").ID, 1, ""); err != nil {
			t.Fatal(err)
		}
		b.start()
		b.wait(time.Second)
		if now := b.running(steady.UID, "main"); now == nil || now.ID != id {
			t.Errorf("got %+v, want the same container still running", now)
		}
		if now := b.running(ends.UID, "main"); now == nil || now.Attempt != 1 {
			t.Errorf("got %+v, want it restarted once", now)
		}
		// And one that dies now.
		if err := b.runtime.End(id, 1, ""); err != nil {
			t.Fatal(err)
		}
		b.wait(time.Second)
		if now := b.running(steady.UID, "main"); now == nil || now.Attempt != 1 {
			t.Errorf("got %+v, want it restarted while no control node answers", now)
		}
	})
}

func TestOnlyWhatTheControlPlaneWantsIsKept(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		kept, dropped, lost := newPod("kept", command("main", "serve")), newPod("dropped", command("main", "serve")), newPod("lost", command("main", "serve"))
		for _, pod := range []*corev1.Pod{kept, dropped, lost} {
			b.manager.Put(pod)
		}
		b.wait(time.Second)
		b.stop()
		if err := os.Remove(filepath.Join(b.dir, "pods", string(lost.UID)+".pb")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(b.dir, "pods", "damaged.pb"), []byte("no pod"), 0o600); err != nil {
			t.Fatal(err)
		}
		b.start()
		b.wait(time.Second)
		if _, err := b.runtime.RunSandbox(t.Context(), &runtime.SandboxConfig{UID: "early", Namespace: "default", Name: "early"}); err != nil {
			t.Fatal(err)
		}
		b.wait(time.Hour)
		if found, _ := b.runtime.Pod(t.Context(), "early"); len(found.Sandboxes) == 0 {
			t.Error("something unknown was removed before the control plane said anything")
		}
		for _, pod := range []*corev1.Pod{kept, dropped, lost} {
			if b.running(pod.UID, "main") == nil {
				t.Errorf("%s was stopped before the control plane said anything", pod.Name)
			}
		}
		b.manager.Put(kept)
		b.manager.Retain(map[types.UID]bool{kept.UID: true})
		b.wait(3 * time.Second)
		if b.running(kept.UID, "main") == nil {
			t.Error("a wanted pod was stopped")
		}
		b.nothing(dropped.UID)
		b.nothing(lost.UID)
		b.wait(2 * relistEvery)
		b.nothing("early")
		// What appears later is removed too.
		if _, err := b.runtime.RunSandbox(t.Context(), &runtime.SandboxConfig{UID: "stray", Namespace: "default", Name: "stray"}); err != nil {
			t.Fatal(err)
		}
		b.wait(2 * relistEvery)
		b.nothing("stray")
	})
}

// A machine that was dead for a while: its pods may have been replaced
// elsewhere, so the control plane is heard first, if it can be.
func TestDeadPodsWaitForTheControlPlane(t *testing.T) {
	for _, answers := range []bool{true, false} {
		t.Run(fmt.Sprintf("answers %v", answers), func(t *testing.T) {
			within(t, func(t *testing.T, b *bench) {
				replaced, kept := newPod("replaced", command("main", "serve")), newPod("kept", command("main", "serve"))
				b.manager.Put(replaced)
				b.manager.Put(kept)
				b.wait(time.Second)
				b.stop()
				b.runtime = b.newRuntime() // nothing runs after a reboot
				b.start()
				b.wait(unsureFor - time.Second)
				if b.running(replaced.UID, "main") != nil || b.running(kept.UID, "main") != nil {
					t.Fatal("a pod was started before the control plane could say anything")
				}
				if answers {
					b.manager.Put(kept)
					b.manager.Retain(map[types.UID]bool{kept.UID: true})
				}
				b.wait(2 * time.Second)
				if b.running(kept.UID, "main") == nil {
					t.Error("a wanted pod was not started")
				}
				if runs := b.running(replaced.UID, "main") != nil; runs == answers {
					t.Errorf("the replaced pod runs: %v, and the control plane answers: %v", runs, answers)
				}
			})
		})
	}
}

// A list that was short by mistake is followed by one that is not.
func TestAPodThatWasTakenForGoneRunsAgain(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod := newPod("p", command("main", "sh", "-c", "trap '' TERM; serve"))
		b.manager.Put(pod)
		b.wait(time.Second)
		b.manager.Retain(map[types.UID]bool{})
		b.wait(100 * time.Millisecond)
		b.manager.Put(pod)
		b.wait(5 * time.Second)
		if b.running(pod.UID, "main") == nil {
			t.Error("it does not run")
		}
		b.restart()
		b.wait(time.Second)
		if b.running(pod.UID, "main") == nil {
			t.Error("it is not on disk: a restarted agent does not know it")
		}
	})
}

// An agent that dies between making a container and starting it.
func TestAnInterruptedStartIsMadeGood(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod := newPod("p", command("main", "serve"))
		b.manager.Put(pod)
		for b.containers(pod.UID)["main"] == nil {
			b.wait(time.Millisecond)
		}
		if c := b.containers(pod.UID)["main"][0]; c.State != runtime.Created {
			t.Fatalf("the container is %s already", c.State)
		}
		b.restart()
		b.wait(time.Second)
		if got := b.containers(pod.UID)["main"]; len(got) != 1 || got[0].State != runtime.Running || got[0].Attempt != 0 {
			t.Errorf("got %+v, want one running container and no restart", got)
		}
	})
}

// A pod recreated under its name must not run beside its predecessor.
func TestSameNameWaitsForItsPredecessor(t *testing.T) {
	for _, how := range []string{"put", "restart", "orphan"} {
		t.Run(how, func(t *testing.T) {
			within(t, func(t *testing.T, b *bench) {
				old := newPod("p", command("main", "sh", "-c", "trap '' TERM; serve"))
				b.manager.Put(old)
				b.wait(time.Second)
				newer := newPod("p", command("main", "serve"))
				newer.UID = "newer"
				switch how {
				case "restart":
					b.restart()
				case "orphan":
					b.stop()
					if err := os.RemoveAll(filepath.Join(b.dir, "pods")); err != nil {
						t.Fatal(err)
					}
					b.start()
				}
				b.manager.Put(newer)
				for range 300 {
					b.wait(10 * time.Millisecond)
					if b.running(old.UID, "main") != nil && b.running(newer.UID, "main") != nil {
						t.Fatal("both run")
					}
				}
				if b.running(newer.UID, "main") == nil {
					t.Error("the new pod does not run")
				}
				b.nothing(old.UID)
			})
		})
	}
}

func TestALostSandboxIsMadeAgain(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod := newPod("p", command("main", "serve"))
		pod.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "i", Command: []string{"true"}}}
		b.manager.Put(pod)
		b.wait(time.Second)
		found, _ := b.runtime.Pod(t.Context(), string(pod.UID))
		if err := b.runtime.StopSandbox(t.Context(), found.Sandboxes[0].ID); err != nil {
			t.Fatal(err)
		}
		b.wait(time.Second)
		s := b.said.of(pod.UID)
		c := s.ContainerStatuses[0]
		if s.Phase != corev1.PodRunning || c.State.Running == nil || c.RestartCount != 1 || c.LastTerminationState.Terminated == nil || s.PodIP == "" {
			t.Errorf("got %+v, want it running again with one restart", s)
		}
		if init := b.containers(pod.UID)["init"]; init[0].Attempt != 1 {
			t.Errorf("init container is at run %d, want it to have run again", init[0].Attempt)
		}
		if !b.said.heard("SandboxChanged") {
			t.Error("no event SandboxChanged")
		}
	})
}

func TestImagesThatCannotBeHad(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod := newPod("p", corev1.Container{Name: "main", Image: "registry.example/missing:1"})
		b.manager.Put(pod)
		b.wait(time.Second)
		waiting := func() *corev1.ContainerStateWaiting { return b.said.of(pod.UID).ContainerStatuses[0].State.Waiting }
		if w := waiting(); w == nil || w.Reason != "ErrImagePull" || !strings.Contains(w.Message, "not found") {
			t.Errorf("got %+v, want ErrImagePull with the reason", w)
		}
		b.wait(3 * time.Second)
		if w := waiting(); w == nil || w.Reason != "ImagePullBackOff" || !strings.HasPrefix(w.Message, `Back-off pulling image "registry.example/missing:1": ErrImagePull: `) || !strings.Contains(w.Message, "not found") {
			t.Errorf("got %+v, want ImagePullBackOff with the reason", w)
		}
		for _, event := range []string{"Warning Failed Failed to pull image", "Warning Failed Error: ErrImagePull", "Normal BackOff Back-off pulling image", "Warning Failed Error: ImagePullBackOff"} {
			if !b.said.heard(event) {
				t.Errorf("no event %q", event)
			}
		}
		never := newPod("never", corev1.Container{Name: "main", Image: "other", ImagePullPolicy: corev1.PullNever})
		wrong := newPod("wrong", corev1.Container{Name: "main", Image: "no image at all"})
		b.manager.Put(never)
		b.manager.Put(wrong)
		b.wait(time.Second)
		if w := b.said.of(never.UID).ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "ErrImageNeverPull" {
			t.Errorf("got %+v, want ErrImageNeverPull", w)
		}
		if w := b.said.of(wrong.UID).ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "InvalidImageName" {
			t.Errorf("got %+v, want InvalidImageName", w)
		}
		// The image appears under the same name: with the next try it runs.
		good := pod.DeepCopy()
		good.Spec.Containers[0].Image = "registry.example/there:1"
		b.manager.Put(good)
		b.wait(time.Minute)
		if s := b.said.of(pod.UID); s.Phase != corev1.PodRunning {
			t.Errorf("phase %s after the image was corrected, want Running", s.Phase)
		}
	})
}

func TestConfigurationThatCannotBe(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		b.stop()
		b.contents = &told{}
		b.start()
		pod := newPod("p", command("main", "serve"))
		pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Key: "k"}}}}
		b.manager.Put(pod)
		b.wait(time.Second)
		if w := b.said.of(pod.UID).ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "CreateContainerConfigError" || !strings.Contains(w.Message, "X") {
			t.Errorf("got %+v, want CreateContainerConfigError naming the variable", w)
		}
	})
}

// While the runtime is down nothing can be done, and nothing may be said that
// is not known.
func TestRuntimeDownAndBack(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod := newPod("p", command("main", "serve"))
		b.manager.Put(pod)
		b.wait(time.Second)
		before := b.said.count
		b.runtime.SetDown(true)
		late := newPod("late", command("main", "serve"))
		b.manager.Put(late)
		b.wait(time.Minute)
		if b.said.count != before {
			t.Errorf("%d statuses while the runtime is down, want none", b.said.count-before)
		}
		b.runtime.SetDown(false)
		b.wait(2 * time.Second)
		if b.said.of(late.UID).Phase != corev1.PodRunning || b.running(pod.UID, "main").Attempt != 0 {
			t.Error("pods are not as they should be after the runtime came back")
		}
	})
}

// The runtime's directory is lost, and the control plane remembers what ran.
func TestLostContainersCount(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		status := corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{{
			Name: "main", RestartCount: 4, ContainerID: "hollow://lost", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}}
		always := newPod("always", command("main", "serve"))
		always.Status = status
		never := newPod("never", command("main", "serve"))
		never.Spec.RestartPolicy = corev1.RestartPolicyNever
		never.Status = status
		b.manager.Put(always)
		b.manager.Put(never)
		b.wait(time.Second)
		if c := b.said.of(always.UID).ContainerStatuses[0]; c.RestartCount != 5 || c.State.Running == nil {
			t.Errorf("got %+v, want it running with a fifth restart", c)
		}
		s := b.said.of(never.UID)
		if s.Phase != corev1.PodFailed || s.ContainerStatuses[0].State.Terminated == nil || s.ContainerStatuses[0].State.Terminated.Reason != "ContainerStatusUnknown" {
			t.Errorf("got %+v, want it failed: ContainerStatusUnknown", s)
		}
		if len(b.containers(never.UID)) > 0 {
			t.Error("a container that must not restart ran a second time")
		}
	})
}

func TestProbes(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		exec := func(command ...string) *corev1.Probe {
			return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: command}}, PeriodSeconds: 10, FailureThreshold: 3, SuccessThreshold: 1, TimeoutSeconds: 1}
		}
		unready := newPod("unready", command("main", "serve"))
		unready.Spec.Containers[0].ReadinessProbe = exec("false")
		ready := newPod("ready", command("main", "serve"))
		ready.Spec.Containers[0].ReadinessProbe = exec("true")
		ready.Spec.Containers[0].StartupProbe = exec("true")
		ready.Spec.Containers[0].StartupProbe.InitialDelaySeconds = 5
		sick := newPod("sick", command("main", "serve"))
		sick.Spec.Containers[0].LivenessProbe = exec("sleep", "100")
		for _, pod := range []*corev1.Pod{unready, ready, sick} {
			b.manager.Put(pod)
		}
		b.wait(3 * time.Second)
		if s := b.said.of(ready.UID); condition(s, corev1.PodReady) != corev1.ConditionFalse || *s.ContainerStatuses[0].Started {
			t.Errorf("got %+v, want it not started before its startup probe succeeds", s.ContainerStatuses)
		}
		b.wait(17 * time.Second)
		if s := b.said.of(ready.UID); condition(s, corev1.PodReady) != corev1.ConditionTrue || !*s.ContainerStatuses[0].Started {
			t.Errorf("got %+v, want it started and ready", s.ContainerStatuses)
		}
		if s := b.said.of(unready.UID); condition(s, corev1.PodReady) != corev1.ConditionFalse || s.Phase != corev1.PodRunning {
			t.Errorf("got phase %s, ready %s; want Running and not ready", s.Phase, condition(s, corev1.PodReady))
		}
		b.wait(20 * time.Second)
		if c := b.said.of(sick.UID).ContainerStatuses[0]; c.RestartCount != 1 {
			t.Errorf("%d restarts, want 1 after three failures of the liveness probe", c.RestartCount)
		}
		for _, event := range []string{"Warning Unhealthy Readiness probe failed", "Warning Unhealthy Liveness probe failed: command timed out", "Normal Killing Container main failed liveness probe, will be restarted"} {
			if !b.said.heard(event) {
				t.Errorf("no event %q", event)
			}
		}
		// A ready pod stays so across a restart of the agent.
		current := ready.DeepCopy()
		current.Status = *b.said.of(ready.UID)
		b.manager.Put(current)
		b.restart()
		b.manager.Put(current)
		b.wait(100 * time.Millisecond)
		if s := b.said.of(ready.UID); condition(s, corev1.PodReady) != corev1.ConditionTrue {
			t.Error("a restart of the agent made a ready pod unready")
		}
	})
}

func TestActiveDeadline(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod := newPod("p", command("main", "serve"))
		limit := int64(60)
		pod.Spec.ActiveDeadlineSeconds = &limit
		b.manager.Put(pod)
		b.wait(50 * time.Second)
		if b.said.of(pod.UID).Phase != corev1.PodRunning {
			t.Error("ended before its deadline")
		}
		b.wait(15 * time.Second)
		if s := b.said.of(pod.UID); s.Phase != corev1.PodFailed || s.Reason != "DeadlineExceeded" || b.running(pod.UID, "main") != nil {
			t.Errorf("got %s %s, want Failed DeadlineExceeded and nothing running", s.Phase, s.Reason)
		}
	})
}

func TestAChangedImageRestartsTheContainer(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		pod := newPod("p", command("main", "serve"), command("other", "serve"))
		b.manager.Put(pod)
		b.wait(time.Second)
		other := b.running(pod.UID, "other").ID
		changed := pod.DeepCopy()
		changed.Spec.Containers[0].Image = "busybox:2"
		b.manager.Put(changed)
		b.wait(time.Second)
		if c := b.running(pod.UID, "main"); c == nil || c.Image != "busybox:2" {
			t.Errorf("got %+v, want main on the new image", c)
		}
		if c := b.running(pod.UID, "other"); c == nil || c.ID != other {
			t.Errorf("got %+v, want the other left alone", c)
		}
	})
}
