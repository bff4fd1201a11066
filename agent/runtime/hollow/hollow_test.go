package hollow_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/runtime/hollow"
	"github.com/musterhq/muster/agent/runtime/runtimetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	runtimetest.Test(t, func(t *testing.T) runtimetest.Fixture {
		r := hollow.New(hollow.Config{SandboxDelay: time.Millisecond, StartDelay: time.Millisecond, PullDelay: time.Millisecond})
		if err := r.SetPodCIDR("10.1.2.0/24"); err != nil {
			t.Fatal(err)
		}
		if _, err := r.PullImage(t.Context(), "busybox", nil); err != nil {
			t.Fatal(err)
		}
		return runtimetest.Fixture{Runtime: r, Image: "busybox", Dir: t.TempDir()}
	})
}

func TestAddressesAreNotSharedAndComeBack(t *testing.T) {
	r := hollow.New(hollow.Config{})
	run := func(uid string) (string, error) {
		return r.RunSandbox(t.Context(), &runtime.SandboxConfig{UID: uid, Name: uid, Namespace: "n"})
	}
	if _, err := run("early"); err == nil {
		t.Error("a pod got an address before there is a range")
	}
	if err := r.SetPodCIDR("10.1.2.0/29"); err != nil { // .2 to .6
		t.Fatal(err)
	}
	seen := map[string]bool{}
	var last string
	for _, uid := range []string{"a", "b", "c", "d", "e"} {
		id, err := run(uid)
		if err != nil {
			t.Fatal(err)
		}
		pod, _ := r.Pod(t.Context(), uid)
		if ip := pod.Sandboxes[0].IPs[0]; seen[ip] {
			t.Errorf("%s is given twice", ip)
		} else {
			seen[ip] = true
		}
		last = id
	}
	if _, err := run("f"); err == nil {
		t.Error("a sixth pod got one of five addresses")
	}
	if err := r.RemoveSandbox(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	if _, err := run("g"); err != nil {
		t.Errorf("an address that was given back is not used again: %v", err)
	}
}

func TestDownFailsEverything(t *testing.T) {
	r := hollow.New(hollow.Config{})
	r.SetDown(true)
	ctx := context.Background()
	_, infoErr := r.Info(ctx)
	_, podsErr := r.Pods(ctx)
	_, podErr := r.Pod(ctx, "x")
	_, pullErr := r.PullImage(ctx, "x", nil)
	for _, err := range []error{infoErr, podsErr, podErr, pullErr, r.StopSandbox(ctx, "x"), r.StopContainer(ctx, "x", 0), r.RemoveContainer(ctx, "x")} {
		if !errors.Is(err, runtime.ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
	}
}
