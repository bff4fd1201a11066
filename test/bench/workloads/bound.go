package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/musterhq/muster/test/bench/measure"
	"github.com/musterhq/muster/test/bench/wire"
)

// onNodes selects pods that have a node. To whoever watches those, a pod is
// added when it is bound.
const onNodes = "spec.nodeName!="

// tally hears of pods that get a node, or what else they are selected by.
type tally struct {
	came chan struct{} // room for one: there is more
	done chan struct{}

	mu  sync.Mutex
	at  []time.Time // of each binding, in order
	err error
}

// watchBound begins to count, in all namespaces; it ends with ctx.
func (l *lab) watchBound(ctx context.Context) (*tally, error) { return l.watchPods(ctx, onNodes) }

// watchPods is watchBound for those that any field selector selects.
func (l *lab) watchPods(ctx context.Context, selector string) (*tally, error) {
	client, err := l.connect(0)
	if err != nil {
		return nil, err
	}
	version, err := l.version(ctx)
	if err != nil {
		return nil, err
	}
	t := &tally{came: make(chan struct{}, 1), done: make(chan struct{})}
	go func() {
		defer close(t.done)
		err := t.follow(ctx, client, version, selector)
		t.mu.Lock()
		t.err = err
		t.mu.Unlock()
		t.nudge()
	}()
	return t, nil
}

// follow goes on where a watch ended: kube-apiserver ends those that it finds
// slow, which on a busy machine is all of them.
func (t *tally) follow(ctx context.Context, client *kubernetes.Clientset, version, selector string) error {
	for {
		options := metav1.ListOptions{Watch: true, ResourceVersion: version, FieldSelector: selector}
		stream, err := client.CoreV1().RESTClient().Get().Resource("pods").VersionedParams(&options, scheme.ParameterCodec).
			SetHeader("Accept", runtime.ContentTypeProtobuf+";stream=watch").Stream(ctx)
		if err != nil {
			return err
		}
		version, err = t.read(stream, version)
		stream.Close()
		if err != nil {
			return err
		}
	}
}

// read counts until the watch ends, and answers how far it got.
func (t *tally) read(stream io.Reader, version string) (string, error) {
	for events := wire.NewFrames(stream, false); ; {
		frame, err := events.Next()
		if errors.Is(err, io.EOF) {
			return version, nil
		}
		if err != nil {
			return version, err
		}
		kind, object, err := wire.Event(frame)
		if err != nil {
			return version, err
		}
		if kind == "ERROR" {
			return version, fmt.Errorf("the watch ended: %q", frame)
		}
		if version, err = wire.Version(object); err != nil {
			return version, err
		}
		if kind == "ADDED" {
			t.mu.Lock()
			t.at = append(t.at, time.Now())
			t.mu.Unlock()
			t.nudge()
		}
	}
}

func (t *tally) nudge() {
	select {
	case t.came <- struct{}{}:
	default:
	}
}

// first is when the first of them did.
func (t *tally) first() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.at[0]
}

// await returns once so many pods have a node.
func (t *tally) await(ctx context.Context, l *lab, count int) error {
	alive := time.NewTicker(time.Second)
	defer alive.Stop()
	for {
		t.mu.Lock()
		found, err := len(t.at), t.err
		t.mu.Unlock()
		switch {
		case found >= count:
			return nil
		case err != nil:
			return fmt.Errorf("watch pods: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.came:
		case <-alive.C:
			if err := l.alive(); err != nil {
				return err
			}
		}
	}
}

// since sums up the bindings after a time: how long each took from then on.
func (t *tally) since(begin time.Time) (l *measure.Latencies, last time.Time) {
	l = &measure.Latencies{}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, at := range t.at {
		l.Record(at.Sub(begin))
		last = at
	}
	return l, last
}
