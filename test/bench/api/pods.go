package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	kubeclient "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/musterhq/muster/test/bench/measure"
)

const (
	podPrefix = "web-7d4b9c6f5d-"
	// Names are of one length, so that they can be put into encoded pods.
	podDigits      = 10
	podPlaceholder = podPrefix + "##########"
	ownerName      = "web-7d4b9c6f5d"
	templateHash   = "7d4b9c6f5d"
)

func podName(number int) string { return fmt.Sprintf("%s%0*d", podPrefix, podDigits, number) }

// pod is one as the ReplicaSet of a Deployment makes them, about 2 KiB in JSON,
// but for two things. Its owner is a ConfigMap, as Muster's controllers, which
// kube-apiserver is without, would see to a ReplicaSet's pods. And another
// scheduler than Muster's is asked for, which would write to each pod that there
// is no node for it.
func pod(owner *corev1.ConfigMap) *corev1.Pod {
	probe := func(path string, period int32) *corev1.Probe {
		return &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString("http")}},
			PeriodSeconds: period,
		}
	}
	resources := func(cpu, memory string) corev1.ResourceRequirements {
		list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
		return corev1.ResourceRequirements{Requests: list, Limits: list}
	}
	yes, no, user := true, false, int64(10001)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: podPrefix,
			Name:         podPlaceholder,
			Labels: map[string]string{
				"app.kubernetes.io/name": "web", "app.kubernetes.io/instance": "web-production", "app.kubernetes.io/component": "frontend",
				"pod-template-hash": templateHash, "tier": "frontend",
			},
			Annotations: map[string]string{
				"prometheus.io/scrape": "true", "prometheus.io/port": "9090",
				"checksum/config": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
			},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, Controller: &yes, BlockOwnerDeletion: &yes,
			}},
		},
		Spec: corev1.PodSpec{
			SchedulerName: "bench",
			Containers: []corev1.Container{{
				Name: "web", Image: "registry.example.com/shop/web:v2.14.3",
				Args:  []string{"--listen=:8080", "--metrics=:9090", "--config=/etc/web/config.yaml"},
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "metrics", ContainerPort: 9090}},
				Env: []corev1.EnvVar{
					{Name: "LOG_LEVEL", Value: "info"}, {Name: "DATABASE_HOST", Value: "postgres.shop.svc.cluster.local"},
					{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
				},
				Resources:      resources("250m", "256Mi"),
				LivenessProbe:  probe("/healthz", 10),
				ReadinessProbe: probe("/readyz", 5),
				VolumeMounts:   []corev1.VolumeMount{{Name: "config", MountPath: "/etc/web", ReadOnly: true}},
				SecurityContext: &corev1.SecurityContext{
					AllowPrivilegeEscalation: &no, RunAsNonRoot: &yes, RunAsUser: &user, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
				},
			}, {
				Name: "log-shipper", Image: "registry.example.com/platform/log-shipper:1.9.0",
				Args:      []string{"--source=/var/log/web"},
				Resources: resources("50m", "64Mi"),
			}},
			Volumes: []corev1.Volume{{
				Name:         "config",
				VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: owner.Name}}},
			}},
		},
	}
}

// podBodies are pods ready to be sent that differ in their names.
type podBodies struct {
	bytes []byte
	at    int // where the name is
}

func encodePods(p *corev1.Pod, media string) (podBodies, error) {
	info, ok := runtime.SerializerInfoForMediaType(scheme.Codecs.SupportedMediaTypes(), contentTypes[media])
	if !ok {
		return podBodies{}, fmt.Errorf("nothing encodes %s", media)
	}
	encoded, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion), p)
	if err != nil {
		return podBodies{}, err
	}
	at := bytes.Index(encoded, []byte(podPlaceholder))
	if at < 0 {
		return podBodies{}, fmt.Errorf("a pod in %s does not have its name in it", media)
	}
	return podBodies{encoded, at}, nil
}

// named is a body of its own for each call.
func (b podBodies) named(name string) []byte {
	body := bytes.Clone(b.bytes)
	copy(body[b.at:], name)
	return body
}

// statusPatch is what a node's agent says of a running pod. The message differs
// each time, so that none is without effect.
func statusPatch(message string) ([]byte, error) {
	since := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	var conditions []corev1.PodCondition
	for _, kind := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		conditions = append(conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: since})
	}
	started := true
	running := func(name, image string) corev1.ContainerStatus {
		return corev1.ContainerStatus{
			Name: name, Ready: true, Started: &started, Image: image,
			ImageID:     strings.SplitN(image, ":", 2)[0] + "@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
			ContainerID: "containerd://2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
			State:       corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: since}},
		}
	}
	return json.Marshal(struct {
		Status corev1.PodStatus `json:"status"`
	}{corev1.PodStatus{
		Phase: corev1.PodRunning, Conditions: conditions, Message: message, StartTime: &since,
		PodIP: "10.42.7.19", PodIPs: []corev1.PodIP{{IP: "10.42.7.19"}},
		ContainerStatuses: []corev1.ContainerStatus{
			running("web", "registry.example.com/shop/web:v2.14.3"), running("log-shipper", "registry.example.com/platform/log-shipper:1.9.0"),
		},
	}})
}

// prepare makes a namespace with what its pods refer to. A service account
// "default" is made by a controller of Muster, and is missing beside
// kube-apiserver, which refuses pods without it.
func (c *cluster) prepare(ctx context.Context, namespace string) (owner *corev1.ConfigMap, err error) {
	held, err := c.connect(0)
	if err != nil {
		return nil, err
	}
	kube, err := kubeclient.NewForConfigAndClient(held.config, held.http)
	if err != nil {
		return nil, err
	}
	_, err = kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err = kube.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, err
	}
	owner = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: ownerName}, Data: map[string]string{"config.yaml": "greeting: hello\n"}}
	return kube.CoreV1().ConfigMaps(namespace).Create(ctx, owner, metav1.CreateOptions{})
}

// fill makes a namespace with so many pods, and looks whether they are there.
func (c *cluster) fill(ctx context.Context, namespace string, count int) (measure.Round, error) {
	round, err := c.createPods(ctx, namespace, inProtobuf, measure.Load{Workers: fillClients, Count: int64(count)})
	if err != nil {
		return round, err
	}
	if round.Errors > 0 {
		return round, fmt.Errorf("%s: %d of %d pods were not created: %s", c.Name(), round.Errors, count, round.FirstError)
	}
	for _, media := range []string{inJSON, inProtobuf} {
		if err := c.verify(ctx, namespace, media, count); err != nil {
			return round, fmt.Errorf("%s: %w", c.Name(), err)
		}
	}
	return round, nil
}

// fillClients fill namespaces at once.
const fillClients = 32

// verify decodes a list, as no case does.
func (c *cluster) verify(ctx context.Context, namespace, media string, count int) error {
	clients, err := c.clients(1, media)
	if err != nil {
		return err
	}
	list, err := clients[0].rest.Get().Namespace(namespace).Resource("pods").Do(ctx).Get()
	if err != nil {
		return fmt.Errorf("list in %s: %w", media, err)
	}
	if pods := list.(*corev1.PodList).Items; len(pods) != count || count > 0 && len(pods[0].Spec.Containers) != 2 {
		return fmt.Errorf("a list in %s has %d pods, want %d", media, len(pods), count)
	}
	return nil
}
