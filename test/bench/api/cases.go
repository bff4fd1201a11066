package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/test/bench/measure"
)

// What is read is in two namespaces; every case that creates has its own.
const (
	fewPods     = 1_000
	listClients = 2
	listPage    = 500
)

// aCase is a kind of load on a cluster that runs already.
type aCase struct {
	family string // as --only names it
	name   string
	goal   float64 // of the rate, as a multiple of the other system's; 0: none is set
	run    func(ctx context.Context, c *cluster) (measure.Round, error)
}

// Families of cases, in the order in which they run but for memory, which is
// first. What is created last is in nobody's way.
const (
	familyGet    = "get"
	familyPatch  = "patch"
	familyList   = "list"
	familyWatch  = "watch"
	familyCreate = "create"
	familyMemory = "memory"
)

func namespaceOf(pods int) string { return fmt.Sprintf("pods-%d", pods) }

func (b *bench) cases() (all []aCase) {
	steady := func(workers int) measure.Load {
		return measure.Load{Workers: workers, Warm: b.warm, Duration: b.duration}
	}
	add := func(family, name string, goal float64, run func(context.Context, *cluster) (measure.Round, error)) {
		all = append(all, aCase{family, family + "/" + name, goal, run})
	}
	for _, media := range []string{inJSON, inProtobuf} {
		for _, workers := range []int{1, 16, 64} {
			add(familyGet, fmt.Sprintf("%s/%d", media, workers), 5, func(ctx context.Context, c *cluster) (measure.Round, error) {
				return c.getPods(ctx, media, b.pods, steady(workers))
			})
		}
	}
	for _, workers := range []int{1, 16, 64} {
		add(familyPatch, fmt.Sprintf("status/%d", workers), 4, func(ctx context.Context, c *cluster) (measure.Round, error) {
			return c.patchPods(ctx, b.pods, steady(workers))
		})
	}
	for _, pods := range []int{fewPods, b.pods} {
		for _, media := range []string{inProtobuf, inJSON} {
			goal := 0.0
			if pods == b.pods {
				goal = map[string]float64{inJSON: 3, inProtobuf: 5}[media]
			}
			for _, form := range []listForm{{"whole", 0, false}, {"plain", 0, true}, {"pages", listPage, false}} {
				add(familyList, fmt.Sprintf("%d/%s/%s", pods, media, form.name), goal, func(ctx context.Context, c *cluster) (measure.Round, error) {
					return c.list(ctx, media, pods, form, steady(listClients))
				})
			}
		}
	}
	for _, f := range []fanOut{
		{media: inProtobuf, watchers: 100}, {media: inProtobuf, watchers: 1000},
		{media: inJSON, watchers: 100}, {media: inJSON, watchers: 1000},
	} {
		f.pods, f.duration = b.pods, b.duration
		add(familyWatch, fmt.Sprintf("%s/%d", f.media, f.watchers), 5, f.run)
		f.paced = pacedDeliveries / f.watchers
		add(familyWatch, fmt.Sprintf("%s/%d/paced", f.media, f.watchers), 0, f.run)
	}
	for _, media := range []string{inJSON, inProtobuf} {
		for _, workers := range []int{1, 16, 64} {
			add(familyCreate, fmt.Sprintf("%s/%d", media, workers), 5, func(ctx context.Context, c *cluster) (measure.Round, error) {
				return c.createPods(ctx, fmt.Sprintf("create-%s-%d-%d", media, workers, namespaces.Add(1)), media, steady(workers))
			})
		}
	}
	return all
}

// namespaces numbers those that cases create in.
var namespaces atomic.Int64

// createPods creates pods in a namespace that it makes.
func (c *cluster) createPods(ctx context.Context, namespace, media string, l measure.Load) (measure.Round, error) {
	owner, err := c.prepare(ctx, namespace)
	if err != nil {
		return measure.Round{}, fmt.Errorf("prepare %s: %w", namespace, err)
	}
	bodies, err := encodePods(pod(owner), media)
	if err != nil {
		return measure.Round{}, err
	}
	clients, err := c.clients(l.Workers, media)
	if err != nil {
		return measure.Round{}, err
	}
	var next atomic.Int64
	l.Do = func(ctx context.Context, worker int) error {
		return clients[worker].createPod(ctx, namespace, bodies.named(podName(int(next.Add(1)-1))))
	}
	return l.Run(ctx, c.Costs())
}

func (c *cluster) getPods(ctx context.Context, media string, pods int, l measure.Load) (measure.Round, error) {
	clients, err := c.clients(l.Workers, media)
	if err != nil {
		return measure.Round{}, err
	}
	l.Do = func(ctx context.Context, worker int) error {
		name := podName(rand.IntN(pods))
		got, err := clients[worker].getPod(ctx, namespaceOf(pods), name)
		if err == nil && !bytes.Contains(got, []byte(name)) {
			return fmt.Errorf("the answer is not about %s", name)
		}
		return err
	}
	return l.Run(ctx, c.Costs())
}

// patchPods is what agents do all day. They ask for answers in protobuf.
func (c *cluster) patchPods(ctx context.Context, pods int, l measure.Load) (measure.Round, error) {
	clients, err := c.clients(l.Workers, inProtobuf)
	if err != nil {
		return measure.Round{}, err
	}
	l.Do = func(ctx context.Context, worker int) error {
		body, err := statusPatch(fmt.Sprintf("patch %x", rand.Uint64()))
		if err != nil {
			return err
		}
		return clients[worker].patchStatus(ctx, namespaceOf(pods), podName(rand.IntN(pods)), body)
	}
	return l.Run(ctx, c.Costs())
}

// listForm is how a list is asked for.
type listForm struct {
	name  string
	limit int64 // of a page; 0: all at once
	plain bool  // not compressed
}

// list reads all pods of a namespace, in one request or page by page; that is
// one operation.
func (c *cluster) list(ctx context.Context, media string, pods int, form listForm, l measure.Load) (measure.Round, error) {
	clients, err := c.clients(l.Workers, media)
	if err != nil {
		return measure.Round{}, err
	}
	bodies := make([]bytes.Buffer, l.Workers) // used again, as they are large
	l.Do = func(ctx context.Context, worker int) error {
		body, options := &bodies[worker], metav1.ListOptions{Limit: form.limit}
		for {
			body.Reset()
			if err := clients[worker].listPods(ctx, namespaceOf(pods), form.plain, options, body); err != nil {
				return err
			}
			if form.limit == 0 {
				return nil
			}
			head, err := headOf(body.Bytes())
			if err != nil {
				return err
			}
			if options.Continue, err = continueOf(head, media); err != nil || options.Continue == "" {
				return err
			}
		}
	}
	return l.Run(ctx, c.Costs())
}

// headBytes hold a list's own metadata, which comes before its items.
const headBytes = 2048

// headOf is the beginning of an answer, which may be compressed.
func headOf(body []byte) ([]byte, error) {
	if !bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
		return body[:min(headBytes, len(body))], nil
	}
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	head := make([]byte, headBytes)
	n, err := io.ReadFull(r, head)
	if err == io.ErrUnexpectedEOF {
		err = nil
	}
	return head[:n], err
}
