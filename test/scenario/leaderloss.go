package scenario

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Load is how hard a scenario works the cluster while it breaks it.
type Load struct {
	PerSecond     int           // pods created
	Before, After time.Duration // the kill
	// RunEvery makes every nth pod one that can run. The others ask for a node
	// that is not there: on a small machine, starting hundreds of containers
	// would measure the machine.
	RunEvery int
	// Limit is what the next success after the kill may take.
	Limit time.Duration
}

// Short fits into every test run, Full is what chaos-smoke does. The promise is
// two seconds; Short leaves room for a machine that compiles other tests.
var (
	Short = Load{PerSecond: 20, Before: 2 * time.Second, After: 4 * time.Second, RunEvery: 20, Limit: 5 * time.Second}
	Full  = Load{PerSecond: 20, Before: 5 * time.Second, After: 15 * time.Second, RunEvery: 10, Limit: 2 * time.Second}
)

// LosesLeader: the leading control host dies while pods are being created. Work
// goes on within the limit, no acknowledged pod is lost, later pods are
// scheduled and run, and the host comes back with everything it missed.
func LosesLeader(t *testing.T, cluster Cluster, load Load) {
	c := newClient(t, cluster)
	ns := namespace(t, c, "leader")
	leader, err := cluster.Leader(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	creating := create(t, c, ns, load)
	time.Sleep(load.Before)
	killed := time.Now()
	if err := cluster.Kill(t.Context(), leader); err != nil {
		t.Fatal(err)
	}
	dead := time.Now()
	back := false
	defer func() {
		if !back {
			_ = cluster.Start(context.WithoutCancel(t.Context()), leader)
		}
	}()
	created := creating.wait()

	// Only creations that began when the leader was dead count: one that it
	// answered while it was being killed says nothing about the next. The time
	// counts from before the kill.
	next := time.Duration(-1)
	after := 0
	for _, p := range created {
		if p.began.After(dead) {
			after++
			if took := p.answered.Sub(killed); next < 0 || took < next {
				next = took
			}
		}
	}
	if next < 0 {
		t.Fatalf("no pod was created after %s was killed", leader)
	}
	t.Logf("killed leading %s: next success after %v, longest time without one %v; %d pods created, %d of them after the kill",
		leader, next.Round(time.Millisecond), longestGap(created).Round(time.Millisecond), len(created), after)
	if next > load.Limit {
		t.Errorf("next success %v after the leader's death, want at most %v", next.Round(time.Millisecond), load.Limit)
	}
	left := load.After - dead.Sub(killed) // a stop takes a while where nobody is killed
	if want := int(left.Seconds()*float64(load.PerSecond)) / 2; after < want {
		t.Errorf("%d pods created in the %v after the leader was dead, want at least %d", after, left.Round(time.Millisecond), want)
	}

	exist := map[string]*corev1.Pod{}
	must(t, c, "list pods", func(ctx context.Context, api kubernetes.Interface) error {
		pods, err := api.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range pods.Items {
			exist[pods.Items[i].Name] = &pods.Items[i]
		}
		return nil
	})
	for _, p := range created {
		if exist[p.name] == nil {
			t.Errorf("pod %s was acknowledged %v after the kill and is gone", p.name, p.answered.Sub(killed).Round(time.Millisecond))
		}
	}
	runnable := 0
	for _, p := range created {
		if p.runs {
			runnable++
		}
	}
	untilReady(t, c, 60*time.Second, ns, "runs", runnable)

	if now, err := cluster.Leader(t.Context()); err != nil || now == leader {
		t.Errorf("leader is %q (%v), want another than the dead %s", now, err, leader)
	}
	if err := cluster.Start(t.Context(), leader); err != nil {
		t.Fatal(err)
	}
	back = true
	started := time.Now()
	untilSame(t, c, 30*time.Second)
	t.Logf("%s is back and has what the others have %v after its start", leader, time.Since(started).Round(time.Millisecond))
}

// longestGap is the longest time between an acknowledged creation and the next.
func longestGap(all []created) time.Duration {
	answered := make([]time.Time, 0, len(all))
	for _, p := range all {
		answered = append(answered, p.answered)
	}
	slices.SortFunc(answered, time.Time.Compare)
	longest := time.Duration(0)
	for i := 1; i < len(answered); i++ {
		longest = max(longest, answered[i].Sub(answered[i-1]))
	}
	return longest
}

// created is one acknowledged creation.
type created struct {
	name            string
	runs            bool
	began, answered time.Time
}

type creation struct {
	group sync.WaitGroup
	mu    sync.Mutex
	done  []created
}

func (c *creation) wait() []created {
	c.group.Wait()
	return c.done
}

// create creates pods at the load's pace, each on its own, so that one that
// waits for a leader does not hold up the next. A pod whose creation fails on
// one control host is tried on another under the same name; finding it there
// then is success.
func create(t *testing.T, c *client, namespace string, load Load) *creation {
	all := &creation{}
	total := int((load.Before + load.After).Seconds() * float64(load.PerSecond))
	all.group.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(load.PerSecond))
		defer tick.Stop()
		for i := range total {
			select {
			case <-tick.C:
			case <-t.Context().Done():
				return
			}
			all.group.Go(func() { all.one(t, c, namespace, i, load) })
		}
	})
	return all
}

func (c *creation) one(t *testing.T, hosts *client, namespace string, i int, load Load) {
	p := created{name: fmt.Sprintf("pod-%04d", i), runs: i%load.RunEvery == 0, began: time.Now()}
	template := podTemplate("runs")
	if !p.runs {
		template = podTemplate("waits")
		template.Spec.NodeSelector = map[string]string{"muster.local/there": "no"}
	}
	template.Name = p.name
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := hosts.do(ctx, func(ctx context.Context, api kubernetes.Interface) error {
		_, err := api.CoreV1().Pods(namespace).Create(ctx, &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: template.Spec}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Errorf("create %s: %v", p.name, err)
		return
	}
	p.answered = time.Now()
	c.mu.Lock()
	c.done = append(c.done, p)
	c.mu.Unlock()
}
