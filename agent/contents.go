package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/agent/session"
	"github.com/musterhq/muster/agent/volume"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// contents are the config maps, secrets, claims and trust anchors that pods here refer to,
// in memory only, and the services in their environment, as the control plane
// tells them (pod.Contents). It tells no others.
type contents struct {
	log     *slog.Logger
	session *session.Session
	// services are what was told of them before this agent started.
	services serviceFiles
	// changed is called without a lock for each that is new or different.
	changed func(namespace string)

	mu   sync.Mutex
	held map[contentKey]*content
	// session counts them: what the present session has not told is not referred
	// to any more.
	round  int
	synced bool // the present session has told what it tells at first
}

type contentKey struct {
	kind            agentv1.Content_Kind
	namespace, name string
}

type content struct {
	round     int
	version   string
	configMap *corev1.ConfigMap // nil: there is none, or it is of another kind
	secret    *corev1.Secret
	anchors   []byte
	services  []corev1.Service
	claim     *corev1.PersistentVolumeClaim
	claimed   *volume.Claimed // nil: it is not bound
}

// newContents keeps services, which are no secrets and which all pods need to
// start, below dir as well.
func newContents(dir string, log *slog.Logger) *contents {
	return &contents{log: log, services: serviceFiles{dir, log}, held: serviceFiles{dir, log}.read()}
}

// begin opens a session, sync ends what it tells at first.
func (c *contents) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.round++
	c.synced = false
}

func (c *contents) sync() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.synced = true
	for key, held := range c.held {
		if held.round < c.round {
			delete(c.held, key)
			c.services.remove(key)
		}
	}
}

func (c *contents) take(m *agentv1.Content) {
	key := contentKey{m.Kind, m.Namespace, m.Name}
	if m.Dropped {
		c.mu.Lock()
		delete(c.held, key)
		c.mu.Unlock()
		c.services.remove(key)
		return
	}
	now := &content{}
	if err := now.read(m); err != nil {
		c.log.Error("an object for pods can't be read", "kind", m.Kind, "namespace", m.Namespace, "name", m.Name, "err", err)
		return
	}
	c.mu.Lock()
	now.round = c.round
	before := c.held[key]
	c.held[key] = now
	c.mu.Unlock()
	if m.Kind == agentv1.Content_SERVICES {
		c.services.write(key, m.Object)
		return // a container keeps the environment that it was started with
	}
	if before == nil || before.version != now.version {
		c.changed(m.Namespace)
	}
}

func (c *content) read(m *agentv1.Content) error {
	if len(m.Object) == 0 {
		return nil
	}
	var meta *metav1.ObjectMeta
	var err error
	switch m.Kind {
	case agentv1.Content_SECRET:
		c.secret = &corev1.Secret{}
		meta, err = &c.secret.ObjectMeta, c.secret.Unmarshal(m.Object)
	case agentv1.Content_CONFIG_MAP:
		c.configMap = &corev1.ConfigMap{}
		meta, err = &c.configMap.ObjectMeta, c.configMap.Unmarshal(m.Object)
	case agentv1.Content_CLAIM:
		c.claim = &corev1.PersistentVolumeClaim{}
		meta, err = &c.claim.ObjectMeta, c.claim.Unmarshal(m.Object)
		if err == nil && len(m.Volume) > 0 {
			c.claimed = &volume.Claimed{Volume: &corev1.PersistentVolume{}, Directory: m.Directory}
			err = c.claimed.Volume.Unmarshal(m.Volume)
		}
	case agentv1.Content_TRUST_ANCHORS:
		c.anchors, c.version = m.Object, string(m.Object)
		return nil
	case agentv1.Content_SERVICES:
		var list corev1.ServiceList
		err = list.Unmarshal(m.Object)
		c.services = list.Items
		return err
	default:
		return errors.New("its kind is of a newer version of muster")
	}
	c.version = string(meta.UID) + "/" + meta.ResourceVersion
	return err
}

func (c *contents) get(kind agentv1.Content_Kind, namespace, name string) (*content, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := c.held[contentKey{kind, namespace, name}]
	if held == nil {
		return nil, pod.ErrNotTold
	}
	return held, nil
}

// ConfigMap implements pod.Contents.
func (c *contents) ConfigMap(namespace, name string) (*corev1.ConfigMap, error) {
	held, err := c.get(agentv1.Content_CONFIG_MAP, namespace, name)
	if err != nil {
		return nil, err
	}
	return held.configMap, nil
}

// Secret implements pod.Contents.
func (c *contents) Secret(namespace, name string) (*corev1.Secret, error) {
	held, err := c.get(agentv1.Content_SECRET, namespace, name)
	if err != nil {
		return nil, err
	}
	return held.secret, nil
}

// Claim implements pod.Contents.
func (c *contents) Claim(namespace, name string) (*corev1.PersistentVolumeClaim, *volume.Claimed, error) {
	held, err := c.get(agentv1.Content_CLAIM, namespace, name)
	if err != nil {
		return nil, nil, err
	}
	return held.claim, held.claimed, nil
}

// TrustAnchors implements pod.Contents.
func (c *contents) TrustAnchors(name string) ([]byte, error) {
	held, err := c.get(agentv1.Content_TRUST_ANCHORS, "", name)
	if err != nil {
		return nil, err
	}
	return held.anchors, nil
}

// answerMax bounds how long a pod waits for an answer before it tries again.
const answerMax = 5 * time.Second

// Certificate implements pod.Contents.
func (c *contents) Certificate(ctx context.Context, p *corev1.Pod, volume string, source int, request []byte) (pod.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	answer, err := c.session.Certificate(ctx, &agentv1.CertificateRequest{
		Namespace: p.Namespace, Pod: p.Name, Uid: string(p.UID), Volume: volume, Source: int32(source), SigningRequest: request,
	})
	if err != nil {
		return pod.Certificate{}, fmt.Errorf("failed to request a certificate: %s", status.Convert(err).Message())
	}
	switch answer.Outcome {
	case agentv1.CertificateResponse_ISSUED:
		return pod.Certificate{Chain: []byte(answer.Chain), BeginRefresh: time.Unix(answer.BeginRefresh, 0), NotAfter: time.Unix(answer.NotAfter, 0)}, nil
	case agentv1.CertificateResponse_DENIED, agentv1.CertificateResponse_FAILED:
		return pod.Certificate{}, &pod.RefusedError{Request: answer.Request, Denied: answer.Outcome == agentv1.CertificateResponse_DENIED, Reason: answer.Reason, Message: answer.Message}
	}
	return pod.Certificate{}, pod.ErrPending
}

// Token implements pod.Contents.
func (c *contents) Token(ctx context.Context, p *corev1.Pod, audience string, seconds int64) (string, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, answerMax)
	defer cancel()
	issued, err := c.session.Token(ctx, &agentv1.TokenRequest{Namespace: p.Namespace, Pod: p.Name, Uid: string(p.UID), Audience: audience, Seconds: seconds})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("failed to fetch token: %s", status.Convert(err).Message())
	}
	return issued.Token, time.Unix(issued.Expires, 0), nil
}
