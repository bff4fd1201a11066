package dispatch

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// contents follows objects of one kind of the local replica for the sessions
// whose pods refer to them. It holds nothing but who is interested: an object is
// read when it is sent. What pods refer to has a key in the kind's place, which
// is an object's, or stands for several (trust.go, services.go).
type contents struct {
	store *store.Store
	table *store.Table
	kind  agentv1.Content_Kind
	// read returns what is sent for a key of the kind, empty when there is none.
	read func(namespace, name string) ([]byte, error)
	// complete, unless nil, adds to what is sent of an object.
	complete func(*agentv1.Content) error
	// joined: any object's change may be one of any key.
	joined bool
	// listed: an object's change is also one of its namespace's key, which is a
	// prefix.
	listed bool

	mu         sync.Mutex
	interested map[string]map[*session]bool // by the object's key
}

func newContents(s *store.Store, spec *store.Spec, kind agentv1.Content_Kind) *contents {
	c := &contents{store: s, table: s.Table(spec), kind: kind, interested: map[string]map[*session]bool{}}
	c.read = c.object
	return c
}

// Run tells sessions what changed until ctx ends. After a gap in the history
// everything may have.
func (c *contents) Run(ctx context.Context) error {
	for {
		err := c.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, store.ErrExpired) {
			return err
		}
	}
}

func (c *contents) follow(ctx context.Context) error {
	// Who is interested from now on reads this state or a newer one.
	watch, err := c.table.Watch(ctx, store.WatchOptions{After: c.store.Revision()})
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.allChanged()
	c.mu.Unlock()
	for {
		events, _, err := watch.Next(ctx)
		if err != nil {
			return err
		}
		c.mu.Lock()
		if c.joined {
			c.allChanged()
		} else {
			for _, e := range events {
				c.changed(e.Item.Key)
			}
		}
		c.mu.Unlock()
	}
}

// allChanged runs with mu held.
func (c *contents) allChanged() {
	for key := range c.interested {
		c.changed(key)
	}
}

// changed runs with mu held.
func (c *contents) changed(key string) {
	for s := range c.interested[key] {
		s.markContent(key)
	}
	if !c.listed {
		return
	}
	namespace, _ := c.table.Spec().SplitKey(key)
	all := c.table.Spec().Prefix(namespace)
	for s := range c.interested[all] {
		s.markContent(all)
	}
}

func (c *contents) add(key string, s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.interested[key] == nil {
		c.interested[key] = map[*session]bool{}
	}
	c.interested[key][s] = true
}

func (c *contents) remove(key string, s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.interested[key], s)
	if len(c.interested[key]) == 0 {
		delete(c.interested, key)
	}
}

// message is an object as it is sent, as this replica has it.
func (c *contents) message(key string) (*agentv1.Content, error) {
	namespace, name := c.table.Spec().SplitKey(key)
	object, err := c.read(namespace, name)
	content := &agentv1.Content{Kind: c.kind, Namespace: namespace, Name: name, Object: object}
	if err == nil && c.complete != nil {
		err = c.complete(content)
	}
	return content, err
}

func (c *contents) object(namespace, name string) ([]byte, error) {
	item, _, err := c.table.GetItem(namespace, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return store.RawWithRevision(item), nil
}

// of finds what follows a key's kind.
func (d *Dispatcher) of(key string) *contents {
	for _, c := range d.contents {
		if strings.HasPrefix(key, c.table.Spec().Prefix("")) {
			return c
		}
	}
	return nil
}

// forget drops all interests of a session that has ended.
func (d *Dispatcher) forget(s *session) {
	for _, c := range d.contents {
		c.mu.Lock()
		for key, sessions := range c.interested {
			if delete(sessions, s); len(sessions) == 0 {
				delete(c.interested, key)
			}
		}
		c.mu.Unlock()
	}
}

// refer sends those contents that the agent has not got.
func (s *session) refer(keys []string) error {
	for _, key := range keys {
		if s.referred[key]++; s.referred[key] > 1 {
			continue
		}
		// First, so that what changes after it is read is told.
		s.d.of(key).add(key, s)
		if err := s.sendContent(key); err != nil {
			return err
		}
	}
	return nil
}

// release has the agent forget those contents that no pod refers to any more.
func (s *session) release(keys []string) error {
	for _, key := range keys {
		if s.referred[key]--; s.referred[key] > 0 {
			continue
		}
		delete(s.referred, key)
		c := s.d.of(key)
		c.remove(key, s)
		namespace, name := c.table.Spec().SplitKey(key)
		dropped := &agentv1.Content{Kind: c.kind, Namespace: namespace, Name: name, Dropped: true}
		if err := s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_Content{Content: dropped}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) sendContent(key string) error {
	content, err := s.d.of(key).message(key)
	if err != nil {
		// The pod waits for it; the node's other pods need not.
		s.d.log.Error("an object that a pod refers to can't be read", "node", s.node, "key", key, "error", err)
		return nil
	}
	return s.stream.Send(&agentv1.ToAgent{Message: &agentv1.ToAgent_Content{Content: content}})
}

// contentsOf are the keys of the config maps, secrets, claims and trust anchors that
// a pod refers to, each once: all that its node may read of the first three. With them
// are the services that are in its environment.
func (s *session) contentsOf(pod *corev1.Pod) []string {
	if s.bare {
		return nil
	}
	refs := references{namespace: pod.Namespace}
	for i := range pod.Spec.Volumes {
		refs.volume(pod, &pod.Spec.Volumes[i])
	}
	for i := range pod.Spec.InitContainers {
		refs.environment(pod.Spec.InitContainers[i].Env, pod.Spec.InitContainers[i].EnvFrom)
	}
	for i := range pod.Spec.Containers {
		refs.environment(pod.Spec.Containers[i].Env, pod.Spec.Containers[i].EnvFrom)
	}
	for i := range pod.Spec.EphemeralContainers {
		refs.environment(pod.Spec.EphemeralContainers[i].Env, pod.Spec.EphemeralContainers[i].EnvFrom)
	}
	for _, pull := range pod.Spec.ImagePullSecrets {
		refs.add(store.Secrets, pull.Name)
	}
	refs.keys = append(refs.keys, servicesOf(pod)...)
	slices.Sort(refs.keys)
	return slices.Compact(refs.keys)
}

type references struct {
	namespace string
	keys      []string
}

// add leaves out names that no object can have.
func (r *references) add(spec *store.Spec, name string) {
	if key, err := spec.Key(r.namespace, name); err == nil {
		r.keys = append(r.keys, key)
	}
}

func (r *references) volume(pod *corev1.Pod, v *corev1.Volume) {
	switch {
	case v.PersistentVolumeClaim != nil:
		r.add(store.PersistentVolumeClaims, v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		r.add(store.PersistentVolumeClaims, ephemeral.VolumeClaimName(pod, v))
	case v.ConfigMap != nil:
		r.add(store.ConfigMaps, v.ConfigMap.Name)
	case v.Secret != nil:
		r.add(store.Secrets, v.Secret.SecretName)
	case v.Projected != nil:
		for _, source := range v.Projected.Sources {
			if source.ConfigMap != nil {
				r.add(store.ConfigMaps, source.ConfigMap.Name)
			}
			if source.Secret != nil {
				r.add(store.Secrets, source.Secret.Name)
			}
			if source.ClusterTrustBundle != nil {
				r.anchors(source.ClusterTrustBundle)
			}
		}
	}
}

func (r *references) environment(env []corev1.EnvVar, from []corev1.EnvFromSource) {
	for _, e := range env {
		if e.ValueFrom == nil {
			continue
		}
		if ref := e.ValueFrom.ConfigMapKeyRef; ref != nil {
			r.add(store.ConfigMaps, ref.Name)
		}
		if ref := e.ValueFrom.SecretKeyRef; ref != nil {
			r.add(store.Secrets, ref.Name)
		}
	}
	for _, f := range from {
		if f.ConfigMapRef != nil {
			r.add(store.ConfigMaps, f.ConfigMapRef.Name)
		}
		if f.SecretRef != nil {
			r.add(store.Secrets, f.SecretRef.Name)
		}
	}
}
