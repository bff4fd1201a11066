package informers

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
)

// Each object says its place in its own history, and which half of the
// selectors it is in.
const (
	seqLabel  = "seq"
	sideLabel = "side"
)

// state is an object as it is for a while: from one write of its owner to the next.
type state struct {
	seq  int    // 0: it does not exist
	side string // "left" or "right"
	rv   string
}

// owner writes one object, alone, and so knows all that ever was of it.
type owner struct {
	client dynamic.ResourceInterface
	kind   metav1.TypeMeta
	name   string

	mu      sync.Mutex // held while a write is under way; the test holds it for a look
	history []state
	tried   int // the last seq that was sent
	unsure  int // writes without an answer
}

// Run writes until ctx ends.
func (o *owner) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		o.mu.Lock()
		err := o.write(ctx)
		o.mu.Unlock()
		if err != nil {
			return fmt.Errorf("%s: %w", o.name, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(5+rand.IntN(20)) * time.Millisecond):
		}
	}
	return nil
}

// write makes one change and notes it once it is certain.
func (o *owner) write(ctx context.Context) error {
	now := state{}
	if len(o.history) > 0 {
		now = o.history[len(o.history)-1]
	}
	side := []string{"left", "right"}[rand.IntN(2)]
	var (
		got *unstructured.Unstructured
		err error
	)
	switch {
	case now.seq == 0:
		o.tried++
		got, err = o.client.Create(ctx, o.object(o.tried, side, ""), metav1.CreateOptions{})
	case rand.IntN(5) == 0:
		err = o.client.Delete(ctx, o.name, metav1.DeleteOptions{})
		if err == nil {
			o.history = append(o.history, state{})
			return nil
		}
	default:
		o.tried++
		got, err = o.client.Update(ctx, o.object(o.tried, side, now.rv), metav1.UpdateOptions{})
	}
	if err == nil {
		o.history = append(o.history, stateOf(got))
		return nil
	}
	if ctx.Err() != nil {
		o.unsure++ // the end of the test cut it off
		return nil
	}
	// No answer, or one about a write before it that had none: what is there?
	o.unsure++
	return o.look(ctx, now, err)
}

// look adopts what a quorum has after a write that was not answered.
func (o *owner) look(ctx context.Context, before state, reason error) error {
	for {
		after := state{}
		got, err := o.client.Get(ctx, o.name, metav1.GetOptions{})
		switch {
		case err == nil:
			after = stateOf(got)
		case apierrors.IsNotFound(err):
		case ctx.Err() != nil:
			return nil
		default:
			time.Sleep(20 * time.Millisecond)
			continue
		}
		if after.rv == before.rv {
			return nil // it was not done
		}
		if after.seq > o.tried || after.seq != 0 && after.seq <= before.seq {
			return fmt.Errorf("it is at %d, of %d that were tried, after %d and %w", after.seq, o.tried, before.seq, reason)
		}
		o.history = append(o.history, after)
		return nil
	}
}

func (o *owner) object(seq int, side, rv string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": o.kind.APIVersion, "kind": o.kind.Kind, "spec": map[string]any{"side": side},
	}}
	if o.kind.Kind == "ConfigMap" {
		u.Object = map[string]any{"apiVersion": o.kind.APIVersion, "kind": o.kind.Kind, "data": map[string]any{"side": side}}
	}
	u.SetName(o.name)
	u.SetResourceVersion(rv)
	u.SetLabels(map[string]string{seqLabel: strconv.Itoa(seq), sideLabel: side})
	return u
}

func stateOf(object metav1.Object) state {
	seq, _ := strconv.Atoi(object.GetLabels()[seqLabel])
	return state{seq: seq, side: object.GetLabels()[sideLabel], rv: object.GetResourceVersion()}
}

// told is what a watcher of all objects, or of one side's, has to hear of this
// one: A and M with the seq, D for an end.
func (o *owner) told(side string) []string {
	var all []string
	selected := func(s state) bool { return s.seq != 0 && (side == "" || s.side == side) }
	before := state{}
	for _, s := range o.history {
		switch {
		case selected(s) && !selected(before):
			all = append(all, fmt.Sprint("A", s.seq))
		case selected(s):
			all = append(all, fmt.Sprint("M", s.seq))
		case selected(before):
			all = append(all, "D")
		}
		before = s
	}
	return all
}
