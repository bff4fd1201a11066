package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	clusterv1 "github.com/musterhq/muster/proto/cluster/v1"
)

// saved is a cluster's state as it is, and which cluster it is.
func (c *cluster) saved(control string) (*clusterv1.ClusterIdentity, []byte) {
	c.t.Helper()
	stream, err := clusterv1.NewSnapshotClient(c.operator(control)).Save(c.t.Context(), &clusterv1.SaveSnapshotRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	var state []byte
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return first.Cluster, state
		}
		if err != nil {
			c.t.Fatal(err)
		}
		state = append(state, message.State...)
	}
}

func (c *cluster) restore(control string, first *clusterv1.RestoreSnapshotRequest, state []byte) (*clusterv1.RestoreSnapshotResponse, error) {
	c.t.Helper()
	stream, err := clusterv1.NewSnapshotClient(c.operator(control)).Restore(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	_ = stream.Send(first) // an error is received
	for len(state) > 0 {
		n := min(len(state), 64<<10)
		if stream.Send(&clusterv1.RestoreSnapshotRequest{State: state[:n]}) != nil {
			break
		}
		state = state[n:]
	}
	return stream.CloseAndRecv()
}

func (c *cluster) kubernetes(control string) *kubernetes.Clientset {
	c.t.Helper()
	client, err := kubernetes.NewForConfig(c.Config(control))
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

func (c *cluster) eventually(what string, holds func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("still not: %s", what)
		}
	}
}

func controller(name string, replicas int32) *corev1.ReplicationController {
	labels := map[string]string{"app": name}
	return &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ReplicationControllerSpec{Replicas: &replicas, Selector: labels, Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "hello"}}},
		}},
	}
}

// A restore goes under everything that looks at the state: controllers,
// watches, compute nodes, writers. Afterwards all of them must work on the
// restored one, on every node, and a write that was acknowledged must be
// nowhere but before or after it.
func TestRestoreUnderARunningCluster(t *testing.T) {
	c := start(t)
	ctx := t.Context()
	leader, follower := c.leader(), c.followers()[0]
	api := c.kubernetes(follower)
	if _, err := api.CoreV1().ReplicationControllers("default").Create(ctx, controller("kept", 3), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	running := func(app string) int {
		pods, err := api.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, p := range pods.Items {
			if p.Status.Phase == corev1.PodRunning && p.DeletionTimestamp == nil {
				n++
			}
		}
		return n
	}
	c.eventually("3 pods run", func() bool { return running("kept") == 3 })
	kept, err := api.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	kv := clusterv1.NewKVClient(c.operator(follower))
	if _, err := write(ctx, kv, "test/saved", "1"); err != nil {
		t.Fatal(err)
	}
	identity, state := c.saved(follower)

	// After the backup: more of this, less of that.
	if _, err := api.CoreV1().ReplicationControllers("default").Create(ctx, controller("later", 2), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("2 more pods run", func() bool { return running("later") == 2 })
	if err := api.CoreV1().Pods("default").Delete(ctx, kept.Items[0].Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	token, err := clusterv1.NewOperatorClient(c.operator(leader)).CreateToken(ctx, &clusterv1.CreateTokenRequest{Role: "agent"})
	if err != nil || token.Token == "" {
		t.Fatal(token, err)
	}

	first := &clusterv1.RestoreSnapshotRequest{ClusterId: identity.ClusterId}
	if _, err := c.restore(follower, first, state); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a follower answered %v, want where the leader is", err)
	}
	if _, err := c.restore(leader, &clusterv1.RestoreSnapshotRequest{ClusterId: "another"}, state); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the state of another cluster: %v, want PermissionDenied", err)
	}
	if _, err := c.restore(leader, first, state[:len(state)-1]); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a state that was cut short: %v, want InvalidArgument", err)
	}
	watch, err := api.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{ResourceVersion: kept.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()

	// Writers on every node all the while. Each knows the revisions that it was told.
	writing, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	acked := map[string]map[string]uint64{}
	for _, name := range c.Control() {
		mine, client := map[string]uint64{}, clusterv1.NewKVClient(c.operator(name))
		acked[name] = mine
		group.Go(func() {
			for i := 0; writing.Err() == nil; i++ {
				key := fmt.Sprintf("test/%s-%04d", name, i)
				if revision, err := write(ctx, client, key, key); err == nil {
					mine[key] = revision
				} else if ctx.Err() == nil && status.Code(err) != codes.Unavailable && status.Code(err) != codes.Unknown {
					t.Errorf("a writer got %v", err)
				}
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	done, err := c.restore(leader, first, state)
	time.Sleep(200 * time.Millisecond)
	stop()
	group.Wait()
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	for writer, keys := range acked {
		before, after := 0, 0
		for key, revision := range keys {
			got, err := kv.Get(ctx, &clusterv1.KVGetRequest{Key: []byte(key)})
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case revision > done.Revision && got.Item.GetRevision() != revision:
				t.Errorf("%s was written at %d, after the restore at %d, and is not there", key, revision, done.Revision)
			case revision <= done.Revision && got.Item != nil:
				t.Errorf("%s was written at %d, before the restore at %d, and is there", key, revision, done.Revision)
			case revision > done.Revision:
				after++
			default:
				before++
			}
		}
		if before == 0 || after == 0 {
			t.Errorf("%s wrote %d before and %d after the restore: it was not under way", writer, before, after)
		}
	}
	if got, err := kv.Get(ctx, &clusterv1.KVGetRequest{Key: []byte("test/saved")}); err != nil || string(got.GetItem().GetValue()) != "1" {
		t.Errorf("what was saved is %q, %v", got.GetItem().GetValue(), err)
	}

	// The watch ends with "expired"; a new one, and the controllers, see the restored state.
	expired := false
	for event := range watch.ResultChan() {
		if event.Type == apiwatch.Error && apierrors.IsResourceExpired(apierrors.FromObject(event.Object)) {
			expired = true
			break
		}
	}
	if !expired {
		t.Error("a watch from before did not end with expired")
	}
	for i, name := range c.Control() {
		api := c.kubernetes(name)
		c.eventually("the restored pods on "+name, func() bool {
			pods, err := api.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
			return err == nil && len(pods.Items) == 3+i
		})
		if _, err := api.CoreV1().ReplicationControllers("default").Get(ctx, "later", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s: what was made after the backup: %v, want not found", name, err)
		}
		var replicas int32
		if err := retry.RetryOnConflict(retry.DefaultRetry, func() error { // its status is written meanwhile
			scale, err := api.CoreV1().ReplicationControllers("default").Get(ctx, "kept", metav1.GetOptions{})
			if err != nil {
				return err
			}
			replicas = *scale.Spec.Replicas + 1
			scale.Spec.Replicas = &replicas
			_, err = api.CoreV1().ReplicationControllers("default").Update(ctx, scale, metav1.UpdateOptions{})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		c.eventually(fmt.Sprintf("%d pods run", replicas), func() bool { return running("kept") == int(replicas) })
	}
	list, err := clusterv1.NewOperatorClient(c.operator(leader)).ListTokens(ctx, &clusterv1.ListTokensRequest{})
	if err != nil || len(list.Tokens) < 3 {
		t.Errorf("%d tokens, %v: one that was made after the backup must stay", len(list.GetTokens()), err)
	}
}
