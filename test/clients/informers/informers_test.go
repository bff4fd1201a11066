package informers

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/musterhq/muster/test/clients/cluster"
)

const (
	namespace = "churn"
	kills     = 3
	// settleLimit is how long informers may take to have everything, which
	// begins with client-go's own wait before it tries again.
	settleLimit = time.Minute
)

var (
	configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	things     = schema.GroupVersionResource{Group: "informers.example.org", Version: "v1", Resource: "things"}
)

// What could go wrong: a watch that goes on at another node misses what happened
// in between, or is told it twice; a node tells what a majority then does not
// have; a restarted node has forgotten what it must go on from; an answer to a
// write is lost and its event with it. Writers note what was acknowledged while
// the leader is killed again and again, and every way of watching is compared
// with their notes.
func TestInformersLoseNothingWhenLeadersAreKilled(t *testing.T) {
	c := cluster.Start(t, 3, 0)
	balanced := c.Balanced()
	prepare(t, balanced)
	var watchers []*watcher
	running, end := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(running)
	for _, w := range everyWay(t, c, balanced) {
		w.told = map[string][]string{}
		if _, err := w.informer.AddEventHandler(w); err != nil {
			t.Fatal(err)
		}
		group.Go(func() error {
			w.informer.RunWithContext(ctx)
			return nil
		})
		watchers = append(watchers, w)
	}
	for _, w := range watchers {
		if !cache.WaitForCacheSync(ctx.Done(), w.informer.HasSynced) {
			t.Fatalf("%s did not begin", w.name)
		}
	}
	owners := map[string][]*owner{}
	for i := range 12 {
		resource, kind := configMaps, metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}
		if i%3 == 0 {
			resource, kind = things, metav1.TypeMeta{APIVersion: "informers.example.org/v1", Kind: "Thing"}
		}
		writing := rest.CopyConfig(balanced)
		writing.Timeout = 10 * time.Second
		client, err := dynamic.NewForConfig(writing)
		if err != nil {
			t.Fatal(err)
		}
		o := &owner{client: client.Resource(resource).Namespace(namespace), kind: kind, name: fmt.Sprintf("%s-%d", strings.ToLower(kind.Kind), i)}
		owners[resource.Resource] = append(owners[resource.Resource], o)
		group.Go(func() error { return o.Run(ctx) })
	}
	candidates := elect(t, group, ctx, balanced)

	for round := range kills {
		time.Sleep(time.Second)
		leader := c.Leader()
		c.Kill(leader)
		time.Sleep(2 * time.Second)
		c.Restart(leader)
		time.Sleep(500 * time.Millisecond)
		if ctx.Err() != nil {
			break // a writer found something
		}
		still(owners, func() {
			writes, unsure := 0, 0
			for _, all := range owners {
				for _, o := range all {
					writes, unsure = writes+len(o.history), unsure+o.unsure
				}
			}
			took := settle(t, c, balanced, watchers)
			for _, w := range watchers {
				w.check(t, owners[w.resource])
			}
			t.Logf("round %d: killed %s; %d writes so far, %d without an answer; everybody had all after %v", round+1, leader.Name, writes, unsure, took.Round(time.Millisecond))
		})
		if t.Failed() {
			break
		}
	}
	candidates.check(t)
	end()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// still stops all writers for the time of f.
func still(owners map[string][]*owner, f func()) {
	for _, all := range owners {
		for _, o := range all {
			o.mu.Lock()
			defer o.mu.Unlock()
		}
	}
	f()
}

// prepare makes the namespace and a kind that can be selected by a field.
func prepare(t *testing.T, config *rest.Config) {
	t.Helper()
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	create := func(resource schema.GroupVersionResource, object map[string]any) {
		if _, err := client.Resource(resource).Create(t.Context(), &unstructured.Unstructured{Object: object}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": namespace},
	})
	create(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}, map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "things.informers.example.org"},
		"spec": map[string]any{
			"group": things.Group, "scope": "Namespaced",
			"names": map[string]any{"plural": "things", "kind": "Thing"},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true,
				"selectableFields": []any{map[string]any{"jsonPath": ".spec.side"}},
				"schema": map[string]any{"openAPIV3Schema": map[string]any{
					"type": "object", "properties": map[string]any{"spec": map[string]any{
						"type": "object", "properties": map[string]any{"side": map[string]any{"type": "string"}},
					}},
				}},
			}},
		},
	})
	for deadline := time.Now().Add(settleLimit); ; time.Sleep(20 * time.Millisecond) {
		_, err := client.Resource(things).Namespace(namespace).List(t.Context(), metav1.ListOptions{})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// everyWay are informers that ask in different ways: through whichever node
// answers or always through one, streamed or listed, in protobuf or JSON, all or
// a selection, whole objects or their metadata.
func everyWay(t *testing.T, c *cluster.Cluster, balanced *rest.Config) []*watcher {
	t.Helper()
	var all []*watcher
	add := func(name, side string, resource schema.GroupVersionResource, config *rest.Config, inform func(*rest.Config) (cache.SharedIndexInformer, error)) {
		w := &watcher{name: name, side: side, resource: resource.Resource, starts: &starts{}}
		informer, err := inform(w.starts.on(config, resource.Resource))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		w.informer = informer
		all = append(all, w)
	}
	typed := func(selector, contentType string) func(*rest.Config) (cache.SharedIndexInformer, error) {
		return func(config *rest.Config) (cache.SharedIndexInformer, error) {
			config.ContentType = contentType
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return nil, err
			}
			factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace),
				informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = selector }))
			return factory.Core().V1().ConfigMaps().Informer(), nil
		}
	}
	listed := func(config *rest.Config) (cache.SharedIndexInformer, error) {
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return nil, err
		}
		lw := cache.NewFilteredListWatchFromClient(client.CoreV1().RESTClient(), configMaps.Resource, namespace, func(*metav1.ListOptions) {})
		return cache.NewSharedIndexInformer(notStreamed{lw}, &corev1.ConfigMap{}, 0, nil), nil
	}
	untyped := func(resource schema.GroupVersionResource, fieldSelector string) func(*rest.Config) (cache.SharedIndexInformer, error) {
		return func(config *rest.Config) (cache.SharedIndexInformer, error) {
			client, err := dynamic.NewForConfig(config)
			if err != nil {
				return nil, err
			}
			return dynamicinformer.NewFilteredDynamicInformer(client, resource, namespace, 0, nil,
				func(o *metav1.ListOptions) { o.FieldSelector = fieldSelector }).Informer(), nil
		}
	}
	meta := func(resource schema.GroupVersionResource) func(*rest.Config) (cache.SharedIndexInformer, error) {
		return func(config *rest.Config) (cache.SharedIndexInformer, error) {
			client, err := metadata.NewForConfig(config)
			if err != nil {
				return nil, err
			}
			return metadatainformer.NewFilteredMetadataInformer(client, resource, namespace, 0, nil, nil).Informer(), nil
		}
	}
	const protobuf, json = runtime.ContentTypeProtobuf, runtime.ContentTypeJSON
	add("streamed, protobuf, any node", "", configMaps, balanced, typed("", protobuf))
	add("streamed, JSON, any node", "", configMaps, balanced, typed("", json))
	add("streamed, protobuf, one side, any node", "left", configMaps, balanced, typed(sideLabel+"=left", protobuf))
	add("streamed, JSON, not one side, any node", "left", configMaps, balanced, typed(sideLabel+",side!=right", json))
	add("listed, any node", "", configMaps, balanced, listed)
	for _, n := range c.Nodes() {
		add("streamed, protobuf, "+n.Name, "", configMaps, c.Config(n), typed("", protobuf))
	}
	add("listed, "+c.Nodes()[0].Name, "", configMaps, c.Config(c.Nodes()[0]), listed)
	add("dynamic, any node", "", configMaps, balanced, untyped(configMaps, ""))
	add("metadata, any node", "", configMaps, balanced, meta(configMaps))
	add("custom kind, any node", "", things, balanced, untyped(things, ""))
	add("custom kind, by a field, any node", "right", things, balanced, untyped(things, "spec.side=right"))
	add("custom kind, metadata, "+c.Nodes()[1].Name, "", things, c.Config(c.Nodes()[1]), meta(things))
	return all
}

// notStreamed makes an informer list and then watch, as those of other
// languages and of older releases do.
type notStreamed struct{ *cache.ListWatch }

func (notStreamed) IsWatchListSemanticsUnSupported() bool { return true }

// settle waits until every cache holds what a quorum has, and returns how long
// that took. Nobody writes meanwhile.
func settle(t *testing.T, c *cluster.Cluster, config *rest.Config, watchers []*watcher) time.Duration {
	t.Helper()
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string]map[string]string{}
	for _, w := range watchers {
		resource := configMaps
		if w.resource == things.Resource {
			resource = things
		}
		selector := ""
		if w.side != "" {
			selector = sideLabel + "=" + w.side
		}
		if stored[w.resource+selector] != nil {
			continue
		}
		list, err := client.Resource(resource).Namespace(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]string{}
		for i := range list.Items {
			if stateOf(&list.Items[i]).seq != 0 {
				all[list.Items[i].GetName()] = list.Items[i].GetResourceVersion()
			}
		}
		stored[w.resource+selector] = all
	}
	began := time.Now()
	for _, w := range watchers {
		selector := ""
		if w.side != "" {
			selector = sideLabel + "=" + w.side
		}
		for {
			difference := differ(w.holds(), stored[w.resource+selector])
			if difference == "" {
				break
			}
			if time.Since(began) > settleLimit {
				t.Fatalf("%s: after %v its cache has %s", w.name, settleLimit, difference)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	// The cache is ahead of the handler by what is under way to it.
	time.Sleep(200 * time.Millisecond)
	return time.Since(began)
}
