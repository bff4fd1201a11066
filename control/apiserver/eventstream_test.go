package apiserver

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

const shortPatience = 100 * time.Millisecond

// A deadline for one write must not outlast it: HTTP/2 resets a stream whose
// deadline passes, and a quiet watch ended after half a minute.
func TestAQuietWatchGoesOn(t *testing.T) {
	f := newFixture(t)
	f.server.slowClient = shortPatience
	ctx := t.Context()
	client := f.client(f.admin(), mediaProtobuf)
	w, err := client.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: fmt.Sprint(f.store.Revision())})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for _, name := range []string{"first", "second"} {
		if _, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		wantEvent(t, w, watch.Added, name)
		time.Sleep(3 * shortPatience)
	}
}

// A client that does not read holds its events up, in buffers and then in the
// handler, which must end.
func TestAClientThatDoesNotReadLosesItsWatch(t *testing.T) {
	f := newFixture(t)
	f.server.slowClient = shortPatience
	ctx := t.Context()
	client := f.client(f.admin(), mediaProtobuf)
	stream, err := client.CoreV1().RESTClient().Get().Namespace("default").Resource("configmaps").
		Param("watch", "true").Param("resourceVersion", fmt.Sprint(f.store.Revision())).Stream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	const objects, size = 40, 500 << 10 // more than all buffers on the way hold
	for i := range objects {
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("large-", i)}, Data: map[string]string{"x": strings.Repeat("x", size)}}
		if _, err := client.CoreV1().ConfigMaps("default").Create(ctx, object, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(3 * shortPatience)
	got, err := io.Copy(io.Discard, stream)
	if err == nil || got > objects*size/2 {
		t.Errorf("%d MiB arrived, then %v; want the watch cut off before", got>>20, err)
	}
}

func TestFewChangesAreToldAtOnceAndManyTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		begin := time.Now()
		for range gatherAfter {
			p.wait(context.Background())
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("%d times in a row waited %v, want no wait", gatherAfter, took)
		}
		for range 100 {
			p.wait(context.Background())
		}
		if took, want := time.Since(begin), 100*gatherEvery; took != want {
			t.Errorf("a hundred more took %v, want %v", took, want)
		}
		time.Sleep(time.Second)
		begin = time.Now()
		p.wait(context.Background())
		if took := time.Since(begin); took != 0 {
			t.Errorf("after a rest the first waited %v, want no wait", took)
		}
	})
}

func TestSplicedEventsAreOfTheSizeThatIsMadeRoomFor(t *testing.T) {
	f := newFixture(t)
	ctx := t.Context()
	pods := f.client(f.admin(), mediaProtobuf).CoreV1().Pods("default")
	kind := f.reg.Catalog().Version(corev1.SchemeGroupVersion.WithResource("pods"))
	for _, labels := range []int{0, 1, 7, 300} {
		pod := newPod(fmt.Sprint("pod-", labels))
		pod.Labels = map[string]string{}
		for i := range labels {
			pod.Labels[fmt.Sprint("label-", i)] = "x"
		}
		if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		found, err := f.server.local(&call{target: target{namespace: "default", name: pod.Name}, kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		e := &eventEncoder{kind: kind, out: output{media: mediaProtobuf}}
		if got, want := len(e.appendSpliced(nil, found)), e.splicedSize(found); got != want {
			t.Errorf("%d labels: %d bytes, want %d", labels, got, want)
		}
	}
}
