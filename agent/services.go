package agent

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// Services implements pod.Contents.
func (c *contents) Services(namespace string, links bool) ([]corev1.Service, error) {
	var services []corev1.Service
	if links {
		held, err := c.servicesOf(namespace, "")
		if err != nil {
			return nil, err
		}
		services = append(services, held...)
	}
	if !links || namespace != metav1.NamespaceDefault {
		held, err := c.servicesOf(metav1.NamespaceDefault, "kubernetes")
		if err != nil {
			return nil, err
		}
		services = append(services, held...)
	}
	return services, nil
}

// servicesOf are none where a session that has told everything has not told them:
// they come before a pod that sees them, but not from a control node of a version
// that did not send any. Its pods must start all the same.
func (c *contents) servicesOf(namespace, name string) ([]corev1.Service, error) {
	held, err := c.get(agentv1.Content_SERVICES, namespace, name)
	if err == nil {
		return held.services, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.synced {
		return nil, nil
	}
	return nil, err
}

// serviceFiles are the services that the control plane told of, as it sent them:
// an agent that starts while nobody answers can start its pods' containers with
// them. A file is called NAMESPACE.NAME, or NAMESPACE. for all of a namespace.
type serviceFiles struct {
	dir string
	log *slog.Logger
}

func (f serviceFiles) path(key contentKey) string {
	return filepath.Join(f.dir, key.namespace+"."+key.name)
}

// read is what was held before. A file that can't be read was never told.
func (f serviceFiles) read() map[contentKey]*content {
	held := map[contentKey]*content{}
	entries, err := os.ReadDir(f.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.log.Error("what is known of services can't be read", "err", err)
	}
	for _, entry := range entries {
		namespace, name, ok := strings.Cut(entry.Name(), ".")
		body, err := os.ReadFile(filepath.Join(f.dir, entry.Name()))
		if !ok || namespace == "" || err != nil {
			continue
		}
		var list corev1.ServiceList
		if err := list.Unmarshal(body); err != nil {
			continue
		}
		held[contentKey{agentv1.Content_SERVICES, namespace, name}] = &content{services: list.Items}
	}
	return held
}

// write replaces a file. Should it fail, only an agent that starts with nobody to
// ask will miss it.
func (f serviceFiles) write(key contentKey, body []byte) {
	temporary := filepath.Join(f.dir, "."+key.namespace+"."+key.name)
	err := os.MkdirAll(f.dir, 0o700)
	if err == nil {
		err = os.WriteFile(temporary, body, 0o600)
	}
	if err == nil {
		err = os.Rename(temporary, f.path(key))
	}
	if err != nil {
		f.log.Error("services can't be kept", "namespace", key.namespace, "err", err)
	}
}

func (f serviceFiles) remove(key contentKey) {
	if key.kind == agentv1.Content_SERVICES {
		_ = os.Remove(f.path(key))
	}
}
