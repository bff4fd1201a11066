package pod

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/agent/runtime"
)

// Whatever happens in whatever order, no container may run twice, and once it is
// quiet exactly what is wanted must run. What happens: pods are made, deleted,
// forced away and made again under their names; containers and sandboxes die;
// the runtime hangs; the agent dies and comes back, with its disk or without;
// the control plane repeats itself.
func TestNothingRunsTwiceAndAllSettles(t *testing.T) {
	seeds := 30
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			within(t, func(t *testing.T, b *bench) { chaos(t, b, rand.New(rand.NewPCG(uint64(seed), 0))) })
		})
	}
}

func chaos(t *testing.T, b *bench, random *rand.Rand) {
	names := []string{"a", "b", "c"}
	wanted := map[string]*corev1.Pod{} // by name, as the control plane has them
	generation := 0
	down := false
	create := func(name string) {
		generation++
		pod := newPod(name, command("main", "serve"), command("side", "sh", "-c", "trap '' TERM; serve"))
		if random.IntN(3) == 0 {
			pod.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "i", Command: []string{"sleep", "1"}}}
		}
		pod.UID = types.UID(fmt.Sprintf("%s-%d", name, generation))
		wanted[name] = pod
		b.manager.Put(pod)
	}
	sync := func() {
		all := map[types.UID]bool{}
		for _, pod := range wanted {
			b.manager.Put(pod)
			all[pod.UID] = true
		}
		b.manager.Retain(all)
	}
	var trace []string
	for range 60 {
		name := names[random.IntN(len(names))]
		pod := wanted[name]
		var what string
		switch random.IntN(10) {
		case 0, 1:
			if pod == nil {
				what = "create " + name
				create(name)
			}
		case 2:
			if pod != nil && pod.DeletionTimestamp == nil {
				what = "delete " + name
				wanted[name] = deleted(pod, int64(random.IntN(20)))
				b.manager.Put(wanted[name])
			}
		case 3:
			if pod != nil {
				what = "force " + name
				delete(wanted, name)
				if random.IntN(2) == 0 {
					b.manager.Remove(pod.UID)
				}
				if random.IntN(2) == 0 {
					what += " and create it again"
					create(name)
				}
			}
		case 4, 5:
			if pod != nil && !down {
				for _, containers := range b.containers(pod.UID) {
					if c := containers[0]; c.State == runtime.Running && random.IntN(2) == 0 {
						what += " kill " + c.Name + " of " + name
						if err := b.runtime.End(c.ID, int32(random.IntN(2)), ""); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
		case 6:
			if pod != nil && !down {
				if found, _ := b.runtime.Pod(context.Background(), string(pod.UID)); len(found.Sandboxes) > 0 {
					what = "lose the sandbox of " + name
					if b.runtime.LoseSandbox(found.Sandboxes[0].ID); random.IntN(2) == 0 {
						break
					}
					what = "stop the sandbox of " + name
					if err := b.runtime.StopSandbox(context.Background(), found.Sandboxes[0].ID); err != nil {
						t.Fatal(err)
					}
				}
			}
		case 7:
			down = !down
			what = fmt.Sprint("down: ", down)
			b.runtime.SetDown(down)
		case 8:
			what = "restart"
			b.restart()
			if random.IntN(3) > 0 {
				what += " and sync"
				sync()
			}
		case 9:
			what = "sync"
			sync()
		}
		trace = append(trace, what)
		for range random.IntN(40) {
			b.wait(time.Duration(random.IntN(100)) * time.Millisecond)
			if !down {
				onlyOnce(t, b, trace)
			}
		}
		for _, uid := range b.said.goneSoFar() { // as the control plane does
			for name, pod := range wanted {
				if pod.UID == uid && pod.DeletionTimestamp != nil {
					delete(wanted, name)
					b.manager.Remove(uid)
				}
			}
		}
		if t.Failed() {
			return
		}
	}
	b.runtime.SetDown(false)
	sync()
	b.wait(20 * time.Minute) // more than any back-off
	for name, pod := range wanted {
		if pod.DeletionTimestamp != nil {
			continue
		}
		for _, c := range []string{"main", "side"} {
			if b.running(pod.UID, c) == nil {
				t.Errorf("%s of %s does not run after %q", c, name, trace)
			}
		}
		if s := b.said.of(pod.UID); s.Phase != corev1.PodRunning || condition(s, corev1.PodReady) != corev1.ConditionTrue {
			t.Errorf("%s is said to be %s after %q", name, s.Phase, trace)
		}
	}
	all, err := b.runtime.Pods(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if pod := wanted[p.Name]; pod == nil || string(pod.UID) != p.UID || pod.DeletionTimestamp != nil {
			t.Errorf("%s (%s) still runs after %q", p.Name, p.UID, trace)
		}
	}
}

func onlyOnce(t *testing.T, b *bench, trace []string) {
	all, err := b.runtime.Pods(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	running := map[string]string{}
	for _, p := range all {
		for _, box := range p.Sandboxes {
			for _, c := range box.Containers {
				if c.State != runtime.Running {
					continue
				}
				key := p.Name + "/" + c.Name
				if other := running[key]; other != "" {
					t.Errorf("%s runs twice (pods %s and %s) after %q", key, other, p.UID, trace)
				}
				running[key] = p.UID
			}
		}
	}
}
