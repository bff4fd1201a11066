// Package clustertrust keeps the ConfigMap from which aggregated API servers
// learn whom to believe: the CA of clients, and the front proxy that passes on
// requests in their name.
package clustertrust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
)

// name is upstream's, in kube-system; aggregated servers look there.
const name = "extension-apiserver-authentication"

// every is how often the ConfigMap is looked at, as upstream.
const every = time.Minute

// retry is the pause after it could not be written.
const retry = time.Second

// Config is what the controller of one leader term needs.
type Config struct {
	// Registry writes through the term's log.
	Registry *resource.Registry
	// ClientCA and FrontProxyCA are certificates in PEM.
	ClientCA, FrontProxyCA []byte
	// FrontProxyName is the common name of the front proxy's own.
	FrontProxyName string
	Logger         *slog.Logger
}

// Controller keeps the ConfigMap.
type Controller struct {
	registry *resource.Registry
	wanted   map[string]string
	log      *slog.Logger
}

// New prepares a controller.
func New(cfg Config) *Controller {
	list := func(words ...string) string {
		b, err := json.Marshal(words)
		if err != nil {
			panic(err) // strings only
		}
		return string(b)
	}
	return &Controller{registry: cfg.Registry, log: cfg.Logger, wanted: map[string]string{
		"client-ca-file":                     string(cfg.ClientCA),
		"requestheader-client-ca-file":       string(cfg.FrontProxyCA),
		"requestheader-allowed-names":        list(cfg.FrontProxyName),
		"requestheader-username-headers":     list("X-Remote-User"),
		"requestheader-uid-headers":          list("X-Remote-Uid"),
		"requestheader-group-headers":        list("X-Remote-Group"),
		"requestheader-extra-headers-prefix": list("X-Remote-Extra-"),
	}}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	for {
		next := every
		if err := c.keep(ctx); err != nil && ctx.Err() == nil {
			// In a new cluster the namespace may come a moment later.
			c.log.Debug("what aggregated APIs should trust was not published", "error", err)
			next = retry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

// errNothing: it says already what it should.
var errNothing = errors.New("nothing to change")

// keep writes what is missing and leaves what others added.
func (c *Controller) keep(ctx context.Context) error {
	_, _, err := c.registry.Update(ctx, resource.ConfigMaps, metav1.NamespaceSystem, name, "", func(current store.Object) (store.Object, error) {
		now := current.(*corev1.ConfigMap)
		if now.UID == "" {
			return nil, apierrors.NewNotFound(store.ConfigMaps.Resource, name)
		}
		have := maps.Clone(now.Data)
		if now.Data == nil {
			now.Data = map[string]string{}
		}
		maps.Copy(now.Data, c.wanted)
		if maps.Equal(have, now.Data) {
			return nil, errNothing
		}
		return now, nil
	}, resource.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: maps.Clone(c.wanted)}
		_, err = c.registry.Create(ctx, resource.ConfigMaps, metav1.NamespaceSystem, made, resource.CreateOptions{})
	}
	if err != nil && !errors.Is(err, errNothing) {
		return fmt.Errorf("%s/%s: %w", metav1.NamespaceSystem, name, err)
	}
	return nil
}
