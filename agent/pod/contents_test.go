package pod

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/musterhq/muster/agent/runtime"
	"github.com/musterhq/muster/agent/volume"
)

// told is what the control plane has told.
type told struct {
	mu         sync.Mutex
	configMaps map[string]map[string]string
	secrets    map[string]map[string]string
	anchors    map[string]string
	sign       func(request []byte) (Certificate, error)
	services   []corev1.Service
	silent     bool
	tokens     int // issued
}

func (t *told) TrustAnchors(name string) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.silent {
		return nil, ErrNotTold
	}
	return []byte(t.anchors[name]), nil
}

func (t *told) Certificate(_ context.Context, _ *corev1.Pod, _ string, _ int, request []byte) (Certificate, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.silent {
		return Certificate{}, ErrNotTold
	}
	return t.sign(request)
}

func (t *told) Claim(string, string) (*corev1.PersistentVolumeClaim, *volume.Claimed, error) {
	return nil, nil, ErrNotTold
}

func (t *told) ConfigMap(namespace, name string) (*corev1.ConfigMap, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	data, ok := t.configMaps[name]
	switch {
	case t.silent:
		return nil, ErrNotTold
	case !ok || namespace != "default":
		return nil, nil
	}
	return &corev1.ConfigMap{Data: maps.Clone(data), BinaryData: map[string][]byte{"raw": {0xff}}}, nil
}

func (t *told) Secret(namespace, name string) (*corev1.Secret, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	data, ok := t.secrets[name]
	switch {
	case t.silent:
		return nil, ErrNotTold
	case !ok || namespace != "default":
		return nil, nil
	}
	secret := &corev1.Secret{Data: map[string][]byte{}}
	for key, value := range data {
		secret.Data[key] = []byte(value)
	}
	return secret, nil
}

// Services are those of "default", and the first of them the API's.
func (t *told) Services(namespace string, links bool) ([]corev1.Service, error) {
	if links && namespace == "default" || len(t.services) == 0 {
		return t.services, nil
	}
	return t.services[:1], nil
}

func (t *told) Token(_ context.Context, pod *corev1.Pod, audience string, seconds int64) (string, time.Time, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.silent {
		return "", time.Time{}, ErrNotTold
	}
	t.tokens++
	return fmt.Sprintf("token %d of %s for %q", t.tokens, pod.Name, audience), time.Now().Add(time.Duration(seconds) * time.Second), nil
}

func (t *told) change(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
}

// shelf are volumes in memory.
type shelf struct {
	mu    sync.Mutex
	files map[string]map[string]volume.File // by pod and volume
}

func (s *shelf) Release(types.UID) error { return nil }

func (s *shelf) Setup(_ context.Context, pod *corev1.Pod, _ func(*corev1.Volume) (*volume.Claimed, error)) (map[string]string, error) {
	paths := map[string]string{}
	for _, v := range pod.Spec.Volumes {
		paths[v.Name] = "/volumes/" + v.Name
	}
	return paths, nil
}

func (s *shelf) Fill(pod *corev1.Pod, name string, files map[string]volume.File) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[string(pod.UID)+"/"+name] = files
	return nil
}

func (s *shelf) Filled(pod *corev1.Pod, name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files[string(pod.UID)+"/"+name] != nil
}

func (s *shelf) Remove(types.UID) error { return nil }

func (s *shelf) read(uid types.UID, name, path string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.files[string(uid)+"/"+name][path].Data)
}

func TestEnvironmentFromConfigMapsAndSecrets(t *testing.T) {
	contents := &told{
		configMaps: map[string]map[string]string{"c": {"A": "1", "B": "2", "x=y": "never"}},
		secrets:    map[string]map[string]string{"s": {"B": "3", "PASSWORD": "p"}},
	}
	from := func(configMap, secret, prefix string, optional bool) corev1.EnvFromSource {
		source := corev1.EnvFromSource{Prefix: prefix}
		if configMap != "" {
			source.ConfigMapRef = &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: configMap}, Optional: &optional}
		} else {
			source.SecretRef = &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Optional: &optional}
		}
		return source
	}
	key := func(name, configMap, secret, key string, optional bool) corev1.EnvVar {
		e := corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{}}
		if configMap != "" {
			e.ValueFrom.ConfigMapKeyRef = &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: configMap}, Key: key, Optional: &optional}
		} else {
			e.ValueFrom.SecretKeyRef = &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: key, Optional: &optional}
		}
		return e
	}
	pod := newPod("p")
	spec := &corev1.Container{
		EnvFrom: []corev1.EnvFromSource{from("c", "", "", false), from("", "s", "", false), from("c", "", "P_", false), from("none", "", "", true), from("", "none", "", true)},
		Env: []corev1.EnvVar{
			key("ONE", "c", "", "A", false), key("PW", "", "s", "PASSWORD", false), key("NO", "c", "", "Z", true), key("NONE", "", "none", "Z", true),
			{Name: "A", Value: "$(B)!"},
		},
	}
	got, err := environment(pod, spec, nil, Node{}, contents)
	want := []runtime.Env{
		{Name: "A", Value: "3!"}, {Name: "B", Value: "3"}, {Name: "PASSWORD", Value: "p"}, {Name: "P_A", Value: "1"}, {Name: "P_B", Value: "2"},
		{Name: "ONE", Value: "1"}, {Name: "PW", Value: "p"},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got  %v, %v\nwant %v", got, err, want)
	}
	for wrong, spec := range map[string]*corev1.Container{
		`configmap "none" not found`:                 {EnvFrom: []corev1.EnvFromSource{from("none", "", "", false)}},
		`secret "none" not found`:                    {Env: []corev1.EnvVar{key("X", "", "none", "k", false)}},
		`couldn't find key Z in ConfigMap default/c`: {Env: []corev1.EnvVar{key("X", "c", "", "Z", false)}},
		`couldn't find key Z in Secret default/s`:    {Env: []corev1.EnvVar{key("X", "", "s", "Z", false)}},
	} {
		if _, err := environment(pod, spec, nil, Node{}, contents); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("got %v, want %s", err, wrong)
		}
	}
	contents.silent = true
	if _, err := environment(pod, spec, nil, Node{}, contents); err == nil {
		t.Error("started before the control plane said what is there")
	}
	if got, err := environment(pod, spec, nil, Node{}, nil); err != nil || len(got) != 1 {
		t.Errorf("on a hollow node: %v, %v, want what needs no contents", got, err)
	}
}

// withVolumes is a pod that shows everything there is to show.
func withVolumes(name string) *corev1.Pod {
	pod := newPod(name, command("main", "sleep"))
	pod.Labels = map[string]string{"app": "web", "tier": `"1"`}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: "c"}, DefaultMode: ptr.To[int32](0o640),
		}}},
		{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "vault", ExpirationSeconds: ptr.To[int64](3600)}},
			{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}, Items: []corev1.KeyToPath{{Key: "PASSWORD", Path: "pw/file", Mode: ptr.To[int32](0o400)}}}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}, Optional: ptr.To(true)}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}},
			}}},
		}}}},
	}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "config", MountPath: "/config"}, {Name: "all", MountPath: "/all"}}
	return pod
}

func TestVolumesShowWhatTheClusterHolds(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		contents := &told{configMaps: map[string]map[string]string{"c": {"a": "1"}}, secrets: map[string]map[string]string{"s": {"PASSWORD": "p", "OTHER": "o"}}}
		volumes := &shelf{files: map[string]map[string]volume.File{}}
		b.stop()
		b.contents, b.volumes = contents, volumes
		b.start()
		pod := withVolumes("web")
		b.manager.Put(pod)
		b.wait(time.Second)
		if b.running(pod.UID, "main") == nil {
			t.Fatalf("does not run: %+v", b.said.of(pod.UID))
		}
		shown := volumes.files[string(pod.UID)+"/all"]
		for path, want := range map[string]string{
			"token": `token 1 of web for "vault"`, "pw/file": "p", "namespace": "default", "labels": "app=\"web\"\ntier=\"\\\"1\\\"\"",
		} {
			if got := string(shown[path].Data); got != want {
				t.Errorf("%s shows %q, want %q", path, got, want)
			}
		}
		if len(shown) != 4 || shown["pw/file"].Mode != 0o400 || shown["token"].Mode != 0o644 || volumes.files[string(pod.UID)+"/config"]["a"].Mode != 0o640 {
			t.Errorf("shown: %+v, want 4 files with the modes that were asked for", shown)
		}

		// What changes is shown at once.
		contents.change(func() { contents.configMaps["c"]["a"] = "2"; contents.secrets["s"]["PASSWORD"] = "q" })
		b.manager.Refill("default")
		b.wait(time.Second)
		if got := volumes.read(pod.UID, "config", "a") + volumes.read(pod.UID, "all", "pw/file"); got != "2q" {
			t.Errorf("after a change the volumes show %q, want 2q", got)
		}
		changed := pod.DeepCopy()
		changed.Labels = map[string]string{"app": "db"}
		b.manager.Put(changed)
		b.wait(time.Second)
		if got := volumes.read(pod.UID, "all", "labels"); got != `app="db"` {
			t.Errorf("after a change of labels: %q", got)
		}
		if contents.tokens != 1 {
			t.Errorf("%d tokens, want the first for as long as it is good", contents.tokens)
		}

		// Tokens are replaced when a fifth of their life is left.
		b.wait(47 * time.Minute)
		if got := volumes.read(pod.UID, "all", "token"); !strings.HasPrefix(got, "token 1 ") {
			t.Errorf("after 47 of 60 minutes: %q, want the first token", got)
		}
		b.wait(2 * time.Minute)
		if got := volumes.read(pod.UID, "all", "token"); !strings.HasPrefix(got, "token 2 ") {
			t.Errorf("after 49 of 60 minutes: %q, want the second token", got)
		}

		// Without the control plane what is shown stays, and is replaced later.
		contents.change(func() { contents.silent = true })
		b.wait(50 * time.Minute)
		if got := volumes.read(pod.UID, "all", "token"); !strings.HasPrefix(got, "token 2 ") {
			t.Errorf("without a control plane: %q", got)
		}
		b.restart()
		contents.change(func() { contents.silent = false })
		b.manager.Put(changed)
		b.wait(10 * time.Second)
		if got := volumes.read(pod.UID, "all", "token"); !strings.HasPrefix(got, "token 3 ") {
			t.Errorf("with it again: %q, want the third token", got)
		}
		if b.running(pod.UID, "main") == nil {
			t.Error("the pod was stopped")
		}
	})
}

func TestPodsWaitForWhatTheyReferTo(t *testing.T) {
	within(t, func(t *testing.T, b *bench) {
		contents := &told{secrets: map[string]map[string]string{"s": {"PASSWORD": "p"}}, configMaps: map[string]map[string]string{}}
		b.stop()
		b.contents, b.volumes = contents, &shelf{files: map[string]map[string]volume.File{}}
		b.start()
		pod := withVolumes("web")
		b.manager.Put(pod)
		b.wait(2 * time.Second)
		if b.running(pod.UID, "main") != nil || !b.said.heard(`MountVolume.SetUp failed: volume "config": configmap "c" not found`) {
			t.Errorf("runs without its config map, or does not say why not: %+v", b.said.of(pod.UID))
		}
		contents.change(func() { contents.configMaps["c"] = map[string]string{"a": "1"} })
		b.manager.Refill("default")
		b.wait(30 * time.Second)
		if b.running(pod.UID, "main") == nil {
			t.Error("does not run once its config map is there")
		}
	})
}

func TestTokensAreTheUsersThatReadThem(t *testing.T) {
	run := func(pod, container *int64) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: corev1.PodSpec{
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: pod},
			Containers:      []corev1.Container{{}, {SecurityContext: &corev1.SecurityContext{RunAsUser: container}}},
		}}
	}
	for _, c := range []struct {
		pod  *corev1.Pod
		want *int64
	}{
		{run(nil, nil), nil}, {run(ptr.To[int64](5), nil), ptr.To[int64](5)}, {run(ptr.To[int64](5), ptr.To[int64](5)), ptr.To[int64](5)},
		{run(ptr.To[int64](5), ptr.To[int64](6)), nil}, {run(nil, ptr.To[int64](6)), nil},
	} {
		if got := commonUser(c.pod); !ptr.Equal(got, c.want) {
			t.Errorf("%+v: user %v, want %v", c.pod.Spec, got, c.want)
		}
	}
}
