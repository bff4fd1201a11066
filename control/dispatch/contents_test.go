package dispatch

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/musterhq/muster/control/resource"
	"github.com/musterhq/muster/control/store"
	agentv1 "github.com/musterhq/muster/proto/agent/v1"
)

// signedTokens issue tokens that say who they are for.
type signedTokens struct{}

func (signedTokens) Request(_ context.Context, namespace, name string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	request.Status.Token = fmt.Sprintf("%s/%s for %v, bound to %s %s", namespace, name, request.Spec.Audiences, request.Spec.BoundObjectRef.Name, request.Spec.BoundObjectRef.UID)
	request.Status.ExpirationTimestamp = metav1.NewTime(time.Unix(1000, 0))
	return request, nil
}

// mounting is a pod on n1 that refers to a config map too, and mounts a token for
// vault.
func (n *controlNode) mounting(name string) *corev1.Pod {
	return n.mountingSources(name,
		corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}},
		corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t", Audience: "vault"}},
	)
}

// mountingSources is a pod on n1 that refers to a secret, with a volume v of
// these.
func (n *controlNode) mountingSources(name string, sources ...corev1.VolumeProjection) *corev1.Pod {
	n.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeName: "n1", ServiceAccountName: "robot",
			Containers: []corev1.Container{{Name: "main", Image: "hello", EnvFrom: []corev1.EnvFromSource{
				{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}},
			}}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}}}},
		},
	}
	created, err := n.registry.Create(n.t.Context(), resource.Pods, "default", pod, resource.CreateOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return created.(*corev1.Pod)
}

func (n *controlNode) configMap(name, value string) {
	n.t.Helper()
	table := store.Of[*corev1.ConfigMap](n.store, store.ConfigMaps)
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"k": value}}
	_, err := table.Update(n.t.Context(), configMap, 0)
	if err != nil {
		_, err = table.Create(n.t.Context(), configMap)
	}
	if err != nil {
		n.t.Fatal(err)
	}
}

// told words a content as a test wants it.
func told(t *testing.T, message *agentv1.ToAgent) string {
	t.Helper()
	content := message.GetContent()
	if content == nil {
		if pod := message.GetPodPut(); pod != nil {
			return "pod"
		}
		return fmt.Sprintf("%T", message.Message)
	}
	word := fmt.Sprintf("%s %s/%s", content.Kind, content.Namespace, content.Name)
	switch {
	case content.Dropped:
		return word + " dropped"
	case len(content.Object) == 0:
		return word + " absent"
	case content.Kind == agentv1.Content_CONFIG_MAP:
		var configMap corev1.ConfigMap
		if err := configMap.Unmarshal(content.Object); err != nil {
			t.Fatal(err)
		}
		return word + " " + configMap.Data["k"]
	}
	return word
}

func TestAgentsAreToldWhatTheirPodsReferTo(t *testing.T) {
	n := newControlNodes(t, "c1")[0]
	n.configMap("c", "1")
	n.configMap("other", "secret")
	first := n.mounting("first")
	agent := n.connect("n1")
	agent.keepBeating()
	n.givePodCIDR("n1")
	hear := func(want ...string) {
		t.Helper()
		for _, w := range want {
			if got := told(t, agent.hear()); got != w {
				t.Fatalf("heard %s, want %s", got, w)
			}
		}
	}
	if agent.hear().GetWelcome() == nil {
		t.Fatal("no welcome")
	}
	hear("CONFIG_MAP default/c 1", "SECRET default/s absent", "pod")
	if agent.hear().GetSynced() == nil {
		t.Fatal("not synced")
	}
	// Changes come, of what is referred to alone.
	n.configMap("other", "changed")
	n.configMap("c", "2")
	hear("CONFIG_MAP default/c 2")
	if _, err := store.Of[*corev1.Secret](n.store, store.Secrets).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}}); err != nil {
		t.Fatal(err)
	}
	hear("SECRET default/s")
	// A second pod that refers to the same has nothing sent anew; what the last
	// one referred to is forgotten after it.
	second := n.mounting("second")
	hear("pod")
	remove := func(pod *corev1.Pod) {
		t.Helper()
		if _, err := store.Of[*corev1.Pod](n.store, store.Pods).Delete(t.Context(), "default", pod.Name, 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	remove(first)
	hear("*agentv1.ToAgent_PodRemove")
	remove(second)
	hear("*agentv1.ToAgent_PodRemove", "CONFIG_MAP default/c dropped", "SECRET default/s dropped")
	for _, c := range n.contents {
		c.mu.Lock()
		if len(c.interested) != 0 {
			t.Errorf("somebody is still interested in %v", c.interested)
		}
		c.mu.Unlock()
	}
}

func TestNodesGetTokensOfTheirPodsOnly(t *testing.T) {
	n := newControlNodes(t, "c1")[0]
	pod := n.mounting("web")
	ask := func(node string, r *agentv1.TokenRequest) (*agentv1.TokenResponse, error) {
		return agentv1.NewAgentClient(n.dial(node+"/")).Token(t.Context(), r)
	}
	good := func() *agentv1.TokenRequest {
		return &agentv1.TokenRequest{Namespace: "default", Pod: "web", Uid: string(pod.UID), Audience: "vault"}
	}
	got, err := ask("n1", good())
	if want := fmt.Sprintf("default/robot for [vault], bound to web %s", pod.UID); err != nil || got.Token != want || got.Expires != 1000 {
		t.Errorf("got %v, %v, want %s", got, err, want)
	}
	for name, c := range map[string]struct {
		node   string
		change func(*agentv1.TokenRequest)
		want   codes.Code
	}{
		"another node":                  {"n2", func(*agentv1.TokenRequest) {}, codes.NotFound},
		"another pod of that name":      {"n1", func(r *agentv1.TokenRequest) { r.Uid = "old" }, codes.NotFound},
		"no pod":                        {"n1", func(r *agentv1.TokenRequest) { r.Pod = "none" }, codes.NotFound},
		"an audience that it names not": {"n1", func(r *agentv1.TokenRequest) { r.Audience = "bank" }, codes.PermissionDenied},
		"the API, which it names not":   {"n1", func(r *agentv1.TokenRequest) { r.Audience = "" }, codes.PermissionDenied},
	} {
		r := good()
		c.change(r)
		if got, err := ask(c.node, r); status.Code(err) != c.want {
			t.Errorf("%s: %v, %v, want %v", name, got, err, c.want)
		}
	}
	other := "another machine"
	n.owner.Store(&other)
	if _, err := ask("n1", good()); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a machine that lost its name: %v, want %v", err, codes.PermissionDenied)
	}
}
