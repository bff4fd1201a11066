package scenario

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// moveLimit is what the pods of a dead node may take to run elsewhere.
const moveLimit = 10 * time.Second

// LosesNode: every process of a compute host dies. Its pods run elsewhere within
// seconds and its Node says NotReady. When the host is back it takes part
// again, what it ran before is removed, and nothing runs twice.
func LosesNode(t *testing.T, cluster Cluster) {
	c := newClient(t, cluster)
	lost, left := cluster.Compute()[0], cluster.Compute()[1]
	ns := namespace(t, c, "moves")
	replicate(t, c, ns, "web", 4)
	pods := untilReady(t, c, 30*time.Second, ns, "web", 4)
	onLost := 0
	for _, pod := range pods {
		if pod.Spec.NodeName == lost {
			onLost++
		}
	}
	if onLost == 0 {
		t.Fatalf("none of the 4 pods runs on %s, want them spread", lost)
	}

	if err := cluster.Kill(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	back := false
	defer func() {
		if !back {
			_ = cluster.Start(context.WithoutCancel(t.Context()), lost)
		}
	}()
	until(t, moveLimit, fmt.Sprintf("4 pods ready and not on %s", lost), func(ctx context.Context) error {
		pods, err := live(ctx, c, ns, "web")
		if err != nil {
			return err
		}
		elsewhere := 0
		for _, pod := range pods {
			if pod.Spec.NodeName != lost && ready(&pod) {
				elsewhere++
			}
		}
		if elsewhere != 4 {
			return fmt.Errorf("%d of 4", elsewhere)
		}
		return nil
	})
	t.Logf("%d pods of the dead %s run elsewhere %v after the kill", onLost, lost, time.Since(killed).Round(time.Millisecond))
	untilNodeReady(t, c, 10*time.Second, lost, false)
	untilNodeReady(t, c, 10*time.Second, left, true)

	if err := cluster.Start(t.Context(), lost); err != nil {
		t.Fatal(err)
	}
	back = true
	untilNodeReady(t, c, 30*time.Second, lost, true)
	untilReady(t, c, 30*time.Second, ns, "web", 4)
	untilOnce(t, c, cluster, 30*time.Second, ns)
}
