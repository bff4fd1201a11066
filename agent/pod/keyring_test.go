package pod

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/musterhq/muster/agent/runtime"
)

func TestCredentialsAreForTheirRegistries(t *testing.T) {
	var ring keyring
	for _, registry := range []string{
		"registry.example.org", "registry.example.org/team", "https://registry.example.org/v2/other/", "*.pkg.example.org", "registry.example.org:5000", "https://index.docker.io/v1/",
	} {
		secret := &corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{
			corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{%q:{"username":%q,"password":"p"}}}`, registry, registry),
		}}
		found, err := credentialsIn(secret)
		if err != nil || len(found) != 1 {
			t.Fatalf("%s: %v, %v", registry, found, err)
		}
		ring = append(ring, found...)
	}
	for image, want := range map[string]string{
		"registry.example.org/web:1":                      "registry.example.org",
		"registry.example.org/team/web@sha256:" + zeroSum: "registry.example.org registry.example.org/team",
		"registry.example.org/other/web":                  "registry.example.org https://registry.example.org/v2/other/",
		"registry.example.org:5000/team/web":              "registry.example.org:5000",
		"a.pkg.example.org/web":                           "*.pkg.example.org",
		"a.b.pkg.example.org/web":                         "",
		"example.org/web":                                 "",
		"busybox":                                         "https://index.docker.io/v1/",
		"docker.io/team/web":                              "https://index.docker.io/v1/",
		"localhost/web":                                   "",
		"not an image":                                    "",
	} {
		var got []string
		for _, c := range ring.of(image) {
			got = append(got, c.Username)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", image, got, want)
		}
	}
}

const zeroSum = "0000000000000000000000000000000000000000000000000000000000000000"

func TestPullSecretsAreReadInAllTheirForms(t *testing.T) {
	auth := base64.StdEncoding.EncodeToString([]byte("ann:pass:word"))
	for _, c := range []struct {
		kind      corev1.SecretType
		key, data string
		want      string
	}{
		{corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths":{"r.example.org":{"auth":"` + auth + `"}}}`, "ann pass:word"},
		{corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths":{"r.example.org":{"username":"bob","password":"x","auth":"` + strings.TrimRight(auth, "=") + `"}}}`, "ann pass:word"},
		{corev1.SecretTypeDockercfg, corev1.DockerConfigKey, `{"https://r.example.org/v1/":{"username":"bob","password":"x","email":"b@example.org"}}`, "bob x"},
		{corev1.SecretTypeOpaque, corev1.DockerConfigJsonKey, `{"auths":{"r.example.org":{"auth":"` + auth + `"}}}`, ""},
		{corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths":{"r.example.org":{"auth":"%"}}}`, "unable to parse auth field, must be formatted as base64(username:password)"},
		{corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths":{"r.example.org":{"password":"hunter2"`, "not a Docker configuration"},
	} {
		ring, err := credentialsIn(&corev1.Secret{Type: c.kind, Data: map[string][]byte{c.key: []byte(c.data)}})
		got := ""
		if err != nil {
			got = err.Error()
		}
		for _, as := range ring.of("r.example.org/web") {
			got += as.Username + " " + as.Password
		}
		if got != c.want {
			t.Errorf("%s %s: got %q, want %q", c.kind, c.data, got, c.want)
		}
	}
}

// registry knows one user.
type registry struct {
	runtime.Runtime
	asked []string
}

func (r *registry) PullImage(_ context.Context, ref string, as *runtime.Credentials) (runtime.Image, error) {
	if as == nil {
		r.asked = append(r.asked, "nobody")
		return runtime.Image{}, errors.New("denied: nobody")
	}
	r.asked = append(r.asked, as.Username)
	if as.Username != "ann" || as.Password != "right" {
		return runtime.Image{}, errors.New("denied: " + as.Username)
	}
	return runtime.Image{ID: "pulled " + ref}, nil
}

// pullSecrets are secrets for pulling, by name.
type pullSecrets struct {
	*told
	configs map[string]string
}

func (p pullSecrets) Secret(_, name string) (*corev1.Secret, error) {
	if p.configs[name] == "" {
		return nil, nil
	}
	return &corev1.Secret{Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(p.configs[name])}}, nil
}

// The secrets of a pod are tried in turn, the narrowest first, and one that is
// missing is told, but hinders nobody.
func TestImagesArePulledAsThePodsSecretsSay(t *testing.T) {
	secrets := pullSecrets{&told{}, map[string]string{
		"old":  `{"auths":{"r.example.org/team":{"username":"ann","password":"wrong"}}}`,
		"new":  `{"auths":{"r.example.org":{"username":"ann","password":"right"}}}`,
		"else": `{"auths":{"other.example.org":{"username":"bob","password":"x"}}}`,
	}}
	for _, c := range []struct {
		secrets, asked, failed, missing string
	}{
		{"", "nobody", "denied: nobody", ""},
		{"else", "nobody", "denied: nobody", ""},
		{"new old", "ann ann", "", ""},
		{"none old", "ann", "denied: ann", "none"},
	} {
		r, said := &registry{}, &said{statuses: map[types.UID]*corev1.PodStatus{}}
		w := &worker{m: &Manager{cfg: Config{Runtime: r, Contents: secrets, Reporter: said}}, log: slog.New(slog.DiscardHandler), memory: newMemory()}
		pod := newPod("p", corev1.Container{Name: "main", Image: "r.example.org/team/web:1"})
		for _, name := range strings.Fields(c.secrets) {
			pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: name})
		}
		image, trouble := w.pull(t.Context(), pod, &pod.Spec.Containers[0])
		failed := ""
		if trouble != nil {
			failed = trouble.waiting.message
		}
		if got := strings.Join(r.asked, " "); got != c.asked || failed != c.failed || (failed == "") != (image.ID != "") {
			t.Errorf("with %q: asked as %q, %q; want %q, %q", c.secrets, got, failed, c.asked, c.failed)
		}
		if got := said.heard("FailedToRetrieveImagePullSecret"); got != (c.missing != "") {
			t.Errorf("with %q: told of missing secrets: %t", c.secrets, got)
		}
	}
}
